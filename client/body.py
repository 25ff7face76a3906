"""The body of a message: a nested dict of numpy arrays and plain values, as msgpack.

Large arrays travel behind the body as frames of their own, so nobody on the way copies them:

    {"__buffer__": index, "dtype": "<f4", "shape": [...]}               raw bytes in buffer `index`
    {"nd": true, "type": "<f4", "kind": "", "shape": [...], "data": …}  inline (msgpack-numpy)
    {"nd": false, "type": "<f4", "data": …}                             a numpy scalar

The inline forms are msgpack-numpy's, which writes and reads them here; keys may be strings or
bytes when decoding. Maps that hold these keys are taken for arrays, so `nd` and `__buffer__` are
reserved names.

msgpack-numpy unpickles data that claims to hold objects, so nothing from outside reaches it
unchecked: a dtype is a short string that must match `_DTYPE`, which cannot spell an object or a
structure, and the field that would make that claim is never passed on.
"""

from __future__ import annotations

import enum
import functools
import re
import sys
from typing import Any, Dict, Sequence, Union

import msgpack
import msgpack_numpy
import numpy as np

from client.errors import BadObservation, ProtocolError
from client.wire import MAX_FRAMES, Frame, show

LARGE = 16 * 1024  # bytes; an array of this size or more gets a frame of its own
MAX_DIMENSIONS = 32
MAX_DEPTH = 32  # of nested dicts, when looking for the one that cannot be encoded

_KINDS = "biufcmMSU"  # bool, integers, floats, complex, durations, times, bytes, text
# Neither a length nor a multiple may be 0: numpy has such dtypes, whose items take no bytes or
# divide by zero.
_DTYPE = re.compile(
    r"[<>|=](?:[bufciSU][1-9]\d{0,8}|[mM]8(?:\[(?:[1-9]\d{0,5})?[a-zA-Zμ]{1,2}\])?)", re.ASCII
)
_NUMBERS = frozenset("?bhilqBHILQefdFD")  # whose bytes msgpack-numpy can read
_NUMBER_TYPES = {np.dtype(char).str: np.dtype(char) for char in sorted(_NUMBERS)}
_UINT8 = np.dtype(np.uint8)
_PLAIN: tuple[Any, ...] = (dict, list, str, bytes, float, int)
_TEXT_KEYS = {b"nd": "nd", b"type": "type", b"shape": "shape", b"data": "data", b"kind": "kind"}

Buffer = Union[Frame, memoryview]
Observation = Dict[str, Any]
"""What a robot sends: nested dicts and lists of numpy arrays and plain values."""


def encode_body(
    tree: dict[str, Any], *, buffers: bool = True, copy: bool = False
) -> list[bytes | memoryview]:
    """Encode an observation or a reply.

    Args:
        tree: nested dicts and lists of arrays (bool, integer, float, complex, time, bytes or
            text dtypes, any shape and memory order), numpy scalars, numbers, strings, bytes
            and None. Tuples become lists.
        buffers: give each array of `LARGE` bytes or more a frame of its own.
        copy: copy large arrays, so that they may be written as soon as this returns. Without
            it they must stay unchanged until the message has been sent.

    Returns:
        The body and then the large arrays' bytes, not copied if they are C-contiguous.

    Raises:
        BadObservation: a value cannot be sent; the message names its key.
    """
    if not isinstance(tree, dict):
        raise BadObservation(f"a dict is expected, not {type(tree).__name__}")
    try:
        encoder = _ENCODERS.pop()
    except IndexError:  # other threads have all that there are
        encoder = _Encoder()
    try:
        frames = encoder.encode(tree, MAX_FRAMES - 2 if buffers else 0, copy)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadObservation(f"{_culprit(tree)}: {error}") from error
    _ENCODERS.append(encoder)
    return frames


class _Encoder:
    """Converts the values that msgpack does not know, and sets large arrays aside as buffers."""

    def __init__(self) -> None:
        self._pack = msgpack.Packer(default=self._convert, strict_types=True).pack
        self._large: list[bytes | memoryview] = []  # a place for the body, and buffers so far
        self._room = 0
        self._copy = False

    def encode(self, tree: Any, room: int, copy: bool) -> list[bytes | memoryview]:
        """The body and at most `room` buffers. After an exception it must not be used again."""
        frames: list[bytes | memoryview] = [b""]
        self._large = frames
        self._room, self._copy = room, copy
        frames[0] = self._pack(tree)
        self._large = []  # else the arrays would live until the next call
        return frames

    def _convert(self, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, (np.str_, np.bytes_)):
            return value.item()
        if isinstance(value, np.generic):
            return _scalar(value)
        if isinstance(value, complex):
            return self._convert(np.complex128(value))
        if isinstance(value, tuple):
            return list(value)
        if isinstance(value, enum.Enum) and not isinstance(value, (str, int, float, bytes)):
            return value.value
        if type(value) not in _PLAIN:
            for plain in _PLAIN:  # subclasses come here because of strict_types
                if isinstance(value, plain):
                    return "".join(value) if isinstance(value, str) else plain(value)
        if type(value) is int:  # msgpack packs those that fit by itself
            raise TypeError(f"{value} cannot be sent: integers go from -2^63 to 2^64 - 1")
        raise TypeError(f"{type(value).__name__} cannot be sent: make it a numpy array")

    def _array(self, array: np.ndarray[Any, Any]) -> dict[str, Any]:
        if type(array) is not np.ndarray and hasattr(array, "mask"):  # does not import numpy.ma
            raise TypeError("a masked array cannot be sent: fill it first")
        dtype, shape = _dtype_name(array.dtype), list(array.shape)
        if array.nbytes < LARGE or len(self._large) > self._room:
            return {"nd": True, "type": dtype, "kind": "", "shape": shape, "data": array.tobytes()}
        if self._copy or not array.flags.c_contiguous:
            array = np.array(array, order="C")
        if array.dtype is _UINT8:  # as images are
            self._large.append(array.data.cast("B"))
        else:
            self._large.append(array.reshape(-1).view(np.uint8).data)
        return {"__buffer__": len(self._large) - 2, "dtype": dtype, "shape": shape}


# Kept, as a new one allocates a buffer of its own; its operations are atomic.
_ENCODERS: list[_Encoder] = []


def _culprit(tree: dict[Any, Any]) -> str:
    """The path of the first member that cannot be encoded; looked for only after a failure."""
    waiting: list[tuple[str, Any]] = [("", tree)]
    for path, value in waiting:
        if isinstance(value, dict) and value and path.count(".") < MAX_DEPTH:
            waiting += [(f"{path}.{key}" if path else f"{key}", value[key]) for key in value]
            continue
        try:
            _Encoder().encode(value, 0, False)
        except (TypeError, ValueError, OverflowError):
            return path
    return "observation"


def decode_body(frames: Sequence[Buffer]) -> dict[str, Any]:
    """Decode a body and the buffers behind it. A body may also hold all its arrays inline.

    Arrays from buffers are views of those frames, and writable if the frames are.

    Raises:
        ProtocolError: not a body, a dtype that is not allowed, or sizes that do not agree.
    """
    used = [False] * (len(frames) - 1)

    def unpack(value: dict[Any, Any]) -> Any:
        if "__buffer__" in value:
            index = value["__buffer__"]
            if type(index) is not int or not 0 <= index < len(used) or used[index]:
                raise ProtocolError(
                    f"buffer {show(index)} is missing or used twice: {len(used)} came"
                )
            used[index] = True
            return _array(value.get("dtype"), value.get("shape"), frames[index + 1])
        if b"nd" in value:
            value = {_TEXT_KEYS.get(key, key): member for key, member in value.items()}
        if "nd" in value and type(value["nd"]) is bool and "type" in value and "data" in value:
            return _from_inline(value)
        return value

    if not frames:
        raise ProtocolError("the body is missing: a message is [header, body, buffers...]")
    try:
        body = msgpack.unpackb(frames[0], object_hook=unpack, strict_map_key=False)
    except ProtocolError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolError(f"the body is not msgpack: {error!s:.80}") from error
    if not isinstance(body, dict):
        raise ProtocolError(f"the body is a {type(body).__name__}: a msgpack map is expected")
    if not all(used):
        raise ProtocolError(f"{used.count(False)} of {len(used)} buffers belong to no array")
    return body


def _scalar(value: np.generic) -> dict[str, Any]:
    """A numpy scalar in msgpack-numpy's form, with keys that every language reads."""
    name = _dtype_name(value.dtype)
    if value.dtype.char in _NUMBERS:
        form: dict[bytes, Any] = msgpack_numpy.encode(value)
        return {_TEXT_KEYS[key]: form[key] for key in form}
    return {"nd": False, "type": name, "data": value.tobytes()}


def _from_inline(value: dict[Any, Any]) -> Any:
    data = value["data"]
    if type(data) is not bytes:
        raise ProtocolError(f"an inline array's data is {type(data).__name__}: bytes are expected")
    if value["nd"]:
        # A bytearray is writable, and so is the array over it.
        return _array(value["type"], value.get("shape"), bytearray(data))
    dtype = _checked_dtype(value["type"], [], data)
    return msgpack_numpy.decode({b"nd": False, b"type": dtype.str, b"data": data})


def _array(name: Any, shape: Any, data: Any) -> np.ndarray[Any, Any]:
    number = _NUMBER_TYPES.get(name) if type(name) is str else None
    if number is not None and type(shape) is list and bool not in map(type, shape):
        try:
            array = np.ndarray(shape, number, data)
        except (ValueError, TypeError, OverflowError):
            pass  # what is wrong is said below
        else:
            if array.nbytes == len(data):
                return array
    dtype = _checked_dtype(name, shape, data)
    try:
        return np.ndarray(shape, dtype, data)
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"an array of shape {show(shape)} cannot be: {error}") from error


def _checked_dtype(name: Any, shape: Any, data: Any) -> np.dtype[Any]:
    """The dtype of a received array, after a check that its name, shape and size agree."""
    if isinstance(name, bytes):
        name = name.decode("latin-1")
    if not isinstance(name, str):
        raise ProtocolError(f"dtype {show(name)} is not a string such as '<f4'")
    dtype = _parse_dtype(name)
    if type(shape) is not list or len(shape) > MAX_DIMENSIONS:
        raise ProtocolError(
            f"shape {show(shape)} is not a list of at most {MAX_DIMENSIONS} lengths"
        )
    expected = dtype.itemsize
    for length in shape:
        if type(length) is not int or not 0 <= length < 2**48:
            raise ProtocolError(f"shape {show(shape)} has a length that is no count")
        expected *= length
    if len(data) != expected:
        raise ProtocolError(
            f"an array of shape {show(shape)}, dtype {name} has {expected} bytes: {len(data)} came"
        )
    if dtype.kind == "U" and np.any(np.frombuffer(data, dtype.str[0] + "u4") > sys.maxunicode):
        # numpy would accept it, and raise SystemError as soon as an element is read.
        raise ProtocolError(f"an array of dtype {name} has characters that Unicode has not")
    return dtype


@functools.lru_cache(maxsize=256)
def _parse_dtype(name: str) -> np.dtype[Any]:
    if not _DTYPE.fullmatch(name):
        raise ProtocolError(f"dtype {show(name)} is refused: numbers, times, bytes and text only")
    try:
        return np.dtype(name)
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"dtype {show(name)} is unknown to numpy") from error


@functools.lru_cache(maxsize=256)
def _dtype_name(dtype: np.dtype[Any]) -> str:
    if dtype.kind not in _KINDS or not _DTYPE.fullmatch(dtype.str):
        raise TypeError(f"dtype {dtype} cannot be sent: convert it to numbers first")
    return dtype.str
