"""What a pickle of LeRobot's may name, and the plain values that stand for it.

Nothing here calls or imports what a name means in Python.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from broker.gateway import arrays
from client.errors import ProtocolError

MODULES = (  # of LeRobot, by its releases
    "lerobot.async_inference.helpers",
    "lerobot.scripts.server.helpers",
)
RECORDS = ("RemotePolicyConfig", "TimedObservation", "TimedAction")
TORCH_STORAGES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "ByteStorage": "|u1",
    "CharStorage": "|i1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "BoolStorage": "|b1",
}


@dataclass
class Record:
    """An instance of one of LeRobot's classes, as its fields."""

    module: str
    name: str
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Name:
    """A name of the table, and what builds its values from its arguments."""

    module: str
    name: str
    build: Callable[[tuple[Any, ...]], Any]


@dataclass
class Dtype:
    """A dtype whose byte order is still to come."""

    name: str


@dataclass
class PendingArray:
    """An array whose shape and data are still to come."""

    made: np.ndarray[Any, Any] | None = None


def _record(module: str, name: str) -> Name:
    def build(arguments: tuple[Any, ...]) -> Record:
        if arguments:
            raise ProtocolError(f"a {name} with arguments is refused")
        return Record(module, name)

    return Name(module, name, build)


def made_array(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray[Any, Any]:
    """The array of those parts; `order` is C or F.

    Raises:
        ProtocolError: they are not an array's, or do not fit together.
    """
    if not isinstance(dtype, Dtype):
        raise ProtocolError("an array's dtype is none")
    if not isinstance(shape, tuple) or order not in ("C", "F"):
        raise ProtocolError("an array's shape or order is none")
    made = arrays.array(data, dtype.name, shape[::-1] if order == "F" else shape)
    return made.T if order == "F" else made


def _build_dtype(arguments: tuple[Any, ...]) -> Dtype:
    name = arguments[0]
    arrays.checked_dtype(name)  # before a byte order, which makes it no other kind
    return Dtype(name)


def _build_scalar(arguments: tuple[Any, ...]) -> Any:
    dtype, data = arguments
    return made_array(data, dtype, (), "C")[()]


def _build_bytes(arguments: tuple[Any, ...]) -> bytes:
    text, encoding = arguments
    if encoding not in ("latin1", "latin-1") or not isinstance(text, str):
        raise ProtocolError("bytes in a pickle are text in latin1")
    return text.encode("latin-1")


def _build_empty_bytes(arguments: tuple[Any, ...]) -> bytes:
    if arguments:
        raise ProtocolError("bytes with arguments are refused")
    return b""


def _build_tensor(arguments: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    storage, offset, shape, strides, *_ = arguments
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, np.ndarray) or len(shape) != len(strides) or len(shape) > 32:
        raise ProtocolError("a torch tensor's parts do not belong together")
    if any(type(number) is not int or not 0 <= number < 2**40 for number in numbers):
        raise ProtocolError("a torch tensor's shape or strides are no counts")
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    count = math.prod(shape)
    # More elements than there are in its storage could be a small message of a huge array.
    if count > storage.size or (count and last >= storage.size):
        raise ProtocolError("a torch tensor is larger than its storage")
    bytes_each = [step * storage.itemsize for step in strides]
    return np.ndarray(shape, storage.dtype, storage[offset:].data, 0, bytes_each)


def _empty_hooks(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise ProtocolError("an OrderedDict with arguments is refused")
    return {}


def names_of_values() -> dict[tuple[str, str], Name]:
    """The table: all that may be named, but for the storage of torch tensors."""
    names = [_record(module, name) for module in MODULES for name in RECORDS]
    names += [
        Name("numpy", "dtype", _build_dtype),
        Name("numpy", "ndarray", _empty_hooks),  # only ever _reconstruct's argument
        Name("_codecs", "encode", _build_bytes),
        Name("__builtin__", "bytes", _build_empty_bytes),
        Name("collections", "OrderedDict", _empty_hooks),
        Name("torch._utils", "_rebuild_tensor_v2", _build_tensor),
    ]
    for core in ("numpy.core", "numpy._core"):
        names += [
            Name(f"{core}.multiarray", "_reconstruct", lambda _: PendingArray()),
            Name(f"{core}.multiarray", "scalar", _build_scalar),
            Name(f"{core}.numeric", "_frombuffer", lambda parts: made_array(*parts)),
        ]
    return {(each.module, each.name): each for each in names}
