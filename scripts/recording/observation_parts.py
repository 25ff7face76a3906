"""What of an observation other programs understand: pictures, vectors of numbers, the prompt."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.errors import BadObservation
from client.image_codecs import MARK
from worker.images import decode_image, is_encoded
from worker.robots.observations import EXTRA_KEYS

Pixels = NDArray[np.uint8]

PROMPT = "prompt"
_LEFT_OUT = frozenset(EXTRA_KEYS)  # how an answer is to be computed, not what a robot sees
_AROUND = ("observation", "observations", "images", "image")  # folders that say nothing of a key
_COLOURS = 3


@dataclass(frozen=True)
class Picture:
    """One camera's image, compressed as it came or as pixels.

    Attributes:
        key: what the robot calls it, nested keys joined by `/`.
        file: the bytes of a JPEG, PNG or WebP file; empty where `array` has the pixels.
        array: uint8 (H, W, 3).
    """

    key: str
    file: bytes = b""
    array: Pixels | None = None

    def size(self) -> tuple[int, int]:
        """Height and width, without decoding the file.

        Raises:
            BadObservation: the file is damaged.
        """
        from PIL import Image

        if self.array is not None:
            return self.array.shape[0], self.array.shape[1]
        try:
            with Image.open(io.BytesIO(self.file)) as image:
                return image.height, image.width
        except Exception as error:  # damaged files raise whatever their reader meets
            raise BadObservation(f"{self.key}: a damaged image ({error})") from error

    def pixels(self) -> Pixels:
        """Uint8 (H, W, 3).

        Raises:
            BadObservation: the file is damaged.
        """
        return decode_image(self.file, self.key) if self.array is None else self.array


@dataclass
class Parts:
    """Pictures and vectors by their short names, and the prompt."""

    pictures: dict[str, Picture] = field(default_factory=dict)
    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    prompt: str = ""


def split(observation: Mapping[str, Any]) -> Parts:
    """The parts of an observation; what is none of them (texts, depth images) is left out.

    A short name is the key without the folders around it: `cam_high` of `images/cam_high`, and
    `wrist_image` of `observation/wrist_image`. Where two would be the same they stay whole.
    """
    parts = Parts()
    leaves = {key: value for key, value in _leaves(observation) if key not in _LEFT_OUT}
    names = _short_names(leaves)
    if isinstance(prompt := observation.get(PROMPT), str):
        parts.prompt = prompt
    for key, value in leaves.items():
        picture = _picture(key, value)
        if picture is not None:
            parts.pictures[names[key]] = picture
        elif (vector := _vector(value)) is not None:
            parts.vectors[names[key]] = vector
    return parts


def chunk_of(result: Mapping[str, Any] | None) -> NDArray[np.float32] | None:
    """The actions of an answer, (rows, action dim); None where there are none."""
    actions = (result or {}).get("actions")
    if not isinstance(actions, np.ndarray) or actions.dtype.kind not in "fiu" or not actions.size:
        return None
    rows = actions.reshape(1, -1) if actions.ndim < 2 else actions
    return np.asarray(rows, np.float32) if rows.ndim == 2 else None


def _leaves(tree: Mapping[Any, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and MARK not in value:
            yield from _leaves(value, f"{before}{key}/")
        else:
            yield f"{before}{key}", value


def _short_names(keys: Mapping[str, Any]) -> dict[str, str]:
    whole = {key: key.replace("/", ".") for key in keys}
    short = {}
    for key in keys:
        folders = key.split("/")
        while len(folders) > 1 and folders[0] in _AROUND:
            del folders[0]
        short[key] = ".".join(folders)
    given = list(short.values())
    return {key: name if given.count(name) == 1 else whole[key] for key, name in short.items()}


def _picture(key: str, value: Any) -> Picture | None:
    if isinstance(value, Mapping):
        data = value.get(MARK)
        return Picture(key, file=_bytes(data)) if is_encoded(data) else None
    if is_encoded(value):
        data = _bytes(value)
        return Picture(key, file=data) if _is_file(data) else None
    if not isinstance(value, np.ndarray) or value.ndim != 3 or value.dtype.char not in "Bfde":
        return None
    if value.shape[-1] != _COLOURS:
        if value.shape[0] != _COLOURS:
            return None
        value = np.moveaxis(value, 0, -1)
    if value.dtype.kind == "f":  # from 0 to 1, as client.image_tools.convert_to_uint8 takes them
        value = np.clip(np.nan_to_num(value), 0.0, 1.0) * 255.0
    return Picture(key, array=np.ascontiguousarray(value, np.uint8))


def _is_file(data: bytes) -> bool:
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG")) or data[8:12] == b"WEBP"


def _bytes(value: Any) -> bytes:
    return value.tobytes() if isinstance(value, np.ndarray) else bytes(value)


def _vector(value: Any) -> NDArray[np.float32] | None:
    """Numbers in a row, (n,); None for all else."""
    if isinstance(value, list | tuple):
        if not value or not all(type(each) in (int, float) for each in value):
            return None
        return np.array(value, np.float32)
    if isinstance(value, bool) or not isinstance(value, int | float | np.generic | np.ndarray):
        return None
    numbers = np.asarray(value)
    if numbers.ndim > 1 or not numbers.size or numbers.dtype.kind not in "fiub":
        return None
    return np.atleast_1d(numbers).astype(np.float32)
