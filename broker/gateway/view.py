"""What a robot saw and what it was told to do, in a form that a page can show."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

_WIDEST = 320  # pixels of a picture on the page
_MOST_IMAGES = 8
_MOST_NUMBERS = 64  # of one state
_MOST_ROWS = 200  # of a chunk
_LARGEST = 2_000_000  # bytes of an encoded picture that is passed on as it came
_MAGIC = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


def view(observation: Mapping[str, Any], actions: np.ndarray[Any, Any] | None) -> dict[str, Any]:
    """Pictures, states and texts of an observation, and the chunk (horizon, action dim).

    Returns:
        `images` [{name, source}], a data URL each; `states` [{name, values}]; `texts`
        [{name, text}]; `actions`, rows of numbers, or None. All of it is plain JSON.
    """
    shown: dict[str, Any] = {"images": [], "states": [], "texts": [], "actions": None}
    for name, value in _leaves(observation):
        source = _picture(value) if len(shown["images"]) < _MOST_IMAGES else None
        if source is not None:
            shown["images"].append({"name": name, "source": source})
        elif isinstance(value, str):
            shown["texts"].append({"name": name, "text": value[:500]})
        elif _is_state(value):
            numbers = np.asarray(value, np.float64).reshape(-1)[:_MOST_NUMBERS]
            shown["states"].append({"name": name, "values": _plain(numbers)})
    if actions is not None and actions.ndim == 2 and actions.dtype.kind in "fiu":
        rows = np.asarray(actions[:_MOST_ROWS, :_MOST_NUMBERS], np.float64)
        shown["actions"] = [_plain(row) for row in rows]
    return shown


def _leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and "__image__" not in value:
            yield from _leaves(value, f"{before}{key}/")
        else:
            yield f"{before}{key}", value


def _is_state(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return 0 < len(value) <= _MOST_NUMBERS and all(type(each) in (int, float) for each in value)
    return isinstance(value, np.ndarray) and value.ndim <= 1 and value.dtype.kind in "fiub"


def _picture(value: Any) -> str | None:
    """A data URL of what is a picture, small; None for all else."""
    if isinstance(value, Mapping):
        value = value.get("__image__")
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype == np.uint8:
        value = value.tobytes()
    if isinstance(value, bytes):
        kind = next((kind for magic, kind in _MAGIC.items() if value.startswith(magic)), None)
        return None if kind is None or len(value) > _LARGEST else _data_url(kind, value)
    if not isinstance(value, np.ndarray) or value.ndim != 3 or value.dtype.kind not in "fiub":
        return None
    pixels = value if value.shape[-1] == 3 else np.moveaxis(value, 0, -1)
    if pixels.shape[-1] != 3 or min(pixels.shape[:2]) < 8:
        return None
    step = max(1, pixels.shape[1] // _WIDEST)  # before anything is copied
    pixels = pixels[::step, ::step]
    if pixels.dtype.kind == "f":
        pixels = np.clip(np.nan_to_num(pixels), 0.0, 1.0) * 255.0
    written = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels, np.uint8)).save(written, "JPEG", quality=80)
    return _data_url("image/jpeg", written.getvalue())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _plain(numbers: np.ndarray[Any, Any]) -> list[float | None]:
    """As JSON has them: no NaN, and no more digits than a page shows."""
    return [round(float(each), 5) if np.isfinite(each) else None for each in numbers]
