"""What a robot may send, as data, and the one function that checks it.

Everything is checked before any transform or device sees it. Each `BadObservation` names the key,
what was expected and what came.
"""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from client.errors import BadObservation
from worker.config import IMAGE_SIZE
from worker.images import decode_image, is_encoded
from worker.robots.leftover import KEYS as LEFTOVER_KEYS

Array = npt.NDArray[np.float64]
Picture = npt.NDArray[np.uint8]

# What any robot may send beside its own keys.
EXTRA_KEYS = ("prompt", "noise", "seed", *LEFTOVER_KEYS)

LARGEST_STATE = 1e6  # far beyond any robot, and far within what transforms and float32 can take


@dataclass(frozen=True)
class Vector:
    """A part of the state: `size` finite numbers."""

    path: tuple[str, ...]
    size: int
    scalar: bool = False
    """A bare number is understood as a vector of one."""

    def describe(self) -> dict[str, Any]:
        """The field for people and for metadata."""
        return {"shape": [self.size], "dtype": "float32 or float64", "optional": False}

    def parse(self, value: Any) -> Array:
        """`value` as float64 (size,).

        Raises:
            BadObservation: it is something else.
        """
        expected = f"numbers of shape ({self.size},)"
        if self.scalar:
            expected += " or one number"
        array = _numbers(value)
        if array is None or array.dtype.kind not in "fiu":
            raise _bad(self.path, expected, value)
        if array.shape != (self.size,) and not (self.scalar and array.shape == ()):
            raise _bad(self.path, expected, value)
        values: Array = array.reshape(-1).astype(np.float64)
        if not np.isfinite(values).all():
            raise BadObservation(f"{key_name(self.path)}: NaN or infinity among {values.tolist()}")
        if np.abs(values).max(initial=0.0) > LARGEST_STATE:
            raise BadObservation(
                f"{key_name(self.path)}: no robot's values exceed {LARGEST_STATE:g} (radians,"
                f" metres); got {values.tolist()}"
            )
        return values


@dataclass(frozen=True)
class Image:
    """One camera: an array or a file's bytes. `camera` is the model's name; None: unused."""

    path: tuple[str, ...]
    camera: str | None
    channels_last: bool = True
    """(H, W, 3) is understood beside (3, H, W)."""
    optional: bool = False

    def describe(self) -> dict[str, Any]:
        """The field for people and for metadata."""
        shape: list[Any] = ["H", "W", 3] if self.channels_last else [3, "H", "W"]
        dtype = "uint8, or float in [0, 1]; or the bytes of a JPEG, PNG or WebP file"
        return {"shape": shape, "dtype": dtype, "optional": self.optional}

    @property
    def layout(self) -> str:
        """Of the array that stands for a file: see `worker.images`."""
        return "hwc" if self.channels_last else "chw"

    def parse(self, value: Any) -> Picture:
        """`value` as uint8 (H, W, 3).

        Raises:
            BadObservation: it is something else.
        """
        layouts = "(3, H, W) or (H, W, 3)" if self.channels_last else "(3, H, W)"
        expected = f"an image of shape {layouts}, uint8 or float in [0, 1]"
        if is_encoded(value):
            value = decode_image(value, key_name(self.path), self.layout)
        array = value if isinstance(value, np.ndarray) else None
        if array is None or array.ndim != 3 or not _is_picture_dtype(array.dtype):
            raise _bad(self.path, expected, value)
        if array.shape[0] == 3:
            # Plane by plane is ten times faster than copying a transposed view later.
            array = np.stack(list(array), axis=-1)
        elif not (self.channels_last and array.shape[2] == 3):
            raise _bad(self.path, expected, value)
        height, width = array.shape[:2]
        # Beyond this the shorter side would vanish when the image is scaled to the model's size.
        if min(height, width) < 1 or max(height, width) > IMAGE_SIZE * min(height, width):
            raise _bad(self.path, f"{expected}, with sides of similar length", value)
        return array if array.dtype == np.uint8 else self._to_bytes(array)

    def _to_bytes(self, array: npt.NDArray[np.floating[Any]]) -> Picture:
        with np.errstate(over="ignore"):
            scaled = 255 * array
        low, high = scaled.min(), scaled.max()
        # Exactly what truncation turns into a byte; NaN fails both comparisons.
        if not (low > -1 and high < 256):
            raise BadObservation(
                f"{key_name(self.path)}: a float image must lie in [0, 1], this one goes from"
                f" {low / 255:g} to {high / 255:g}; send uint8 for values up to 255"
            )
        return scaled.astype(np.uint8)


@dataclass(frozen=True)
class CheckedObservation:
    """A checked observation. Vectors and images are named by their field's joined path."""

    prompt: str
    vectors: dict[str, Array] = field(default_factory=dict)
    images: dict[str, Picture] = field(default_factory=dict)
    noise: npt.NDArray[np.float32] | None = None
    seed: int | None = None


def parse(
    observation: Any,
    vectors: Sequence[Vector],
    images: Sequence[Image],
    noise_shape: tuple[int, int] | None,
    default_prompt: str | None,
) -> CheckedObservation:
    """Check what a robot sent.

    Args:
        observation: what came.
        vectors: the parts of the robot's state.
        images: its cameras.
        noise_shape: of the noise that the model starts from; None: it starts without any.
        default_prompt: taken where none came.

    Raises:
        BadObservation: something does not fit; the message names the first such thing.
    """
    fields: list[Vector | Image] = [*vectors, *images]
    _check_keys(observation, [f.path for f in fields], ())
    present = [f for f in images if not f.optional or _find(observation, f.path) is not None]
    return CheckedObservation(
        prompt=_prompt(observation.get("prompt"), default_prompt),
        vectors={key_name(f.path): f.parse(_need(observation, f)) for f in vectors},
        images={key_name(f.path): f.parse(_need(observation, f)) for f in present},
        noise=_noise(observation.get("noise"), noise_shape),
        seed=_seed(observation.get("seed")),
    )


def describe(
    vectors: Sequence[Vector], images: Sequence[Image], default_prompt: str | None
) -> dict[str, Any]:
    """The specification as a plain nested dict, in the shape of the observation itself."""
    tree: dict[str, Any] = {}
    fields: list[Vector | Image] = [*vectors, *images]
    for spec in fields:
        branch = tree
        for part in spec.path[:-1]:
            branch = branch.setdefault(part, {})
        branch[spec.path[-1]] = spec.describe()
    tree["prompt"] = {"shape": [], "dtype": "str", "optional": default_prompt is not None}
    return tree


def key_name(path: tuple[str, ...]) -> str:
    """A key as messages and dictionaries name it: nested keys joined by `/`."""
    return "/".join(path)


def _check_keys(tree: Any, paths: list[tuple[str, ...]], at: tuple[str, ...]) -> None:
    if not isinstance(tree, Mapping):
        where = f"{key_name(at)}: " if at else "the observation: "
        raise BadObservation(f"{where}expected a dict, got {_came(tree)}")
    known = {p[0] for p in paths} | (set() if at else set(EXTRA_KEYS))
    for key in tree:
        if key not in known:
            raise BadObservation(_unknown(str(key), sorted(known), at))
    for key in sorted({p[0] for p in paths if len(p) > 1}):
        if key not in tree:
            raise BadObservation(f"{key_name((*at, key))}: missing, expected a dict")
        _check_keys(tree[key], [p[1:] for p in paths if p[0] == key], (*at, key))


def _unknown(key: str, known: list[str], at: tuple[str, ...]) -> str:
    near = [k for k in known if k.startswith(key)] or difflib.get_close_matches(key, known, n=1)
    guess = f"did you mean {key_name((*at, near[0]))}? " if near else ""
    names = ", ".join(key_name((*at, k)) for k in known)
    return f"{key_name((*at, key))}: no such key; {guess}expected are {names}"


def _find(tree: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        tree = tree.get(part)
    return tree


def _need(observation: Any, spec: Vector | Image) -> Any:
    value = _find(observation, spec.path)
    if value is None:
        about = spec.describe()
        shape = "(" + ", ".join(str(n) for n in about["shape"]) + ")"
        raise BadObservation(
            f"{key_name(spec.path)}: missing, expected shape {shape}, {about['dtype']}"
        )
    return value


def _numbers(value: Any) -> npt.NDArray[Any] | None:
    """Arrays and numpy scalars as they are, lists of numbers as float64; None for all else."""
    if isinstance(value, np.ndarray | np.generic):
        return np.asarray(value)
    items = value if isinstance(value, list | tuple) else [value]
    if not all(_is_number(item) for item in items):
        return None
    try:
        return np.asarray(value, dtype=np.float64)
    except OverflowError:
        return None


def _is_number(value: Any) -> bool:
    """Whether it is one number: Python's, numpy's, or an array without dimensions."""
    if isinstance(value, np.ndarray):
        return value.shape == () and value.dtype.kind in "fiu"
    return isinstance(value, int | float | np.floating | np.integer) and not isinstance(value, bool)


def _is_picture_dtype(dtype: np.dtype[Any]) -> bool:
    return dtype == np.uint8 or dtype.kind == "f"


def _prompt(value: Any, default: str | None) -> str:
    value = default if value is None else value
    if value is None:
        raise BadObservation(
            "prompt: missing, expected a str, since this policy has none of its own"
            " (the worker's default_prompt= sets one)"
        )
    if isinstance(value, np.ndarray) and value.shape == () and value.dtype.kind == "U":
        value = value.item()
    if not isinstance(value, str):
        raise _bad(("prompt",), "a str", value)
    # Of an enumeration's member this is its value; str() would be the member's name.
    return str.__str__(value)


def _noise(value: Any, shape: tuple[int, int] | None) -> npt.NDArray[np.float32] | None:
    if value is None:
        return None
    if shape is None:
        raise BadObservation("noise: expected none, since this model starts without noise")
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind != "f":
        raise _bad(("noise",), f"floats of shape {shape}", value)
    with np.errstate(over="ignore"):
        noise = value.astype(np.float32, copy=False)
    if not np.isfinite(noise).all():
        raise BadObservation("noise: NaN or infinity in it, as float32")
    return noise


def _seed(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, np.ndarray) and value.shape == ():
        value = value[()]
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or not 0 <= int(value) < 2**64:
        raise BadObservation(f"seed: expected an int from 0 to 2^64 - 1, got {_came(value)}")
    return int(value)


def _bad(path: tuple[str, ...], expected: str, value: Any) -> BadObservation:
    return BadObservation(f"{key_name(path)}: expected {expected}, got {_came(value)}")


def _came(value: Any) -> str:
    if isinstance(value, np.ndarray | np.generic):
        return f"{value.dtype} of shape {value.shape}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 40 else text[:37] + '...'}"
