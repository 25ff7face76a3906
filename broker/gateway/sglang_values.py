"""What SGLang's clients send, as arrays: pixels and numbers of JSON, and pictures in base64."""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from broker.gateway import arrays
from client import errors

_FORMS = ("PNG", "JPEG", "WEBP")
_MOST_PIXELS = 20_000_000  # of all pictures of one observation
_PLAIN = "observation."  # what LeRobot's names begin with
# About a session that our own connections already are, or for the worker to set.
_ENVELOPE = frozenset(
    (
        *("session_id", "session_revision", "step_id", "reset", "metadata", "seed", "request_id"),
        *("id", "model", "parameters", "runtime", "return_timing", "camera_order", "image_masks"),
        *("action_horizon", "action_dim", "num_inference_steps", "output_format"),
    )
)
_BAD_IMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    UnidentifiedImageError,
    Image.DecompressionBombError,
)


def observation_of(asked: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
    """The observation of a request, `images`, `state`, `prompt` and others; and its seed.

    Raises:
        ProtocolError: a part of it has another form.
        BadObservation: it asks for what is not served.
    """
    given = asked.get("input", asked)
    if not isinstance(given, Mapping):
        raise errors.ProtocolError("input must be a map")
    inner = given.get("observation") if "input" in asked else given
    if inner is not None and not isinstance(inner, Mapping):
        raise errors.ProtocolError("input.observation must be a map")
    theirs: dict[str, Any] = {}
    for part in (inner or {}, given if "input" in asked else {}):
        for key, value in part.items():
            if key != "observation":
                _take(theirs, str(key), value)
    if "task" in theirs:
        theirs["prompt"] = theirs.pop("task")
    if theirs.pop("noise", None) is not None:
        raise errors.BadObservation("noise is not served here: give parameters.seed")
    parameters = asked.get("parameters") or {}
    if not isinstance(parameters, Mapping):
        raise errors.ProtocolError("parameters must be a map")
    seed = parameters.get("seed", inner.get("seed") if isinstance(inner, Mapping) else None)
    left = [_MOST_PIXELS]
    images = theirs.get("images", {})
    found = {key: _value(value, key) for key, value in theirs.items() if key not in _ENVELOPE}
    if images:
        found["images"] = {name: _picture(image, name, left) for name, image in images.items()}
    return found, seed


def _take(theirs: dict[str, Any], key: str, value: Any) -> None:
    if key.startswith(f"{_PLAIN}images."):
        theirs.setdefault("images", {})[key[len(f"{_PLAIN}images.") :]] = value
    elif key == "images":
        if not isinstance(value, Mapping):
            raise errors.ProtocolError("images must be a map of names to images")
        theirs.setdefault("images", {}).update(value)
    else:
        theirs[key.removeprefix(_PLAIN)] = value


def _value(value: Any, name: str) -> Any:
    """Numbers as an array; all else as it is."""
    if isinstance(value, list):
        return _numbers(value, None, None, name)
    if isinstance(value, Mapping) and ("values" in value or "data" in value):
        values = value.get("values", value.get("data"))
        return _numbers(values, value.get("dtype"), value.get("shape"), name)
    return value


def _numbers(values: Any, dtype: Any, shape: Any, name: str) -> np.ndarray[Any, Any]:
    try:
        kind = None if dtype is None else arrays.checked_dtype(dtype)
        array = np.asarray(values, kind)
        array = array if shape is None else array.reshape([int(each) for each in shape])
    except (ValueError, TypeError, OverflowError) as error:
        raise errors.ProtocolError(f"{name} is no array of numbers: {error!s:.80}") from error
    if array.dtype.kind not in "fiub":
        raise errors.ProtocolError(f"{name} is no array of numbers")
    return array


def _picture(image: Any, name: str, left: list[int]) -> Any:
    if isinstance(image, Mapping) and ("b64_json" in image or "base64" in image):
        return _file(image.get("b64_json") or image.get("base64"), name, left)
    array = _value(image, name)
    if isinstance(array, np.ndarray) and array.dtype.kind in "iu" and array.dtype != np.uint8:
        if array.size and not 0 <= array.min() <= array.max() <= 255:
            raise errors.ProtocolError(f"image {name}: whole numbers from 0 to 255 are expected")
        array = array.astype(np.uint8)
    return array


def _file(text: Any, name: str, left: list[int]) -> np.ndarray[Any, Any]:
    if not isinstance(text, str):
        raise errors.ProtocolError(f"image {name}: its base64 must be a text")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=_FORMS) as image:
            left[0] -= image.width * image.height
            if left[0] < 0:
                raise errors.ProtocolError(f"images of more than {_MOST_PIXELS} pixels came")
            return np.asarray(image.convert("RGB"))
    except (*_BAD_IMAGE, binascii.Error) as error:
        raise errors.ProtocolError(f"image {name} is no picture: {error!s:.80}") from error
