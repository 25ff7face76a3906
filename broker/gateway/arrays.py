"""numpy arrays in other systems' msgpack: two forms are read, with string or bytes keys.

    {__ndarray__: True, data, dtype: "<f4", shape}   openpi's
    {__npgeneric__: True, data, dtype}               openpi's scalars, data a number
    {nd: True, type: "<f4", kind, shape, data}       msgpack-numpy's
    {nd: False, type: "<f4", data}                   msgpack-numpy's scalars, data bytes

Nothing is ever unpickled: a dtype that is not numbers, booleans, bytes or text is refused before
anything is built from it.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import msgpack
import numpy as np

from client.errors import BadObservation, ProtocolError
from client.wire import show

_DTYPE = re.compile(r"[<>|=]?[buifSU][1-9]\d{0,6}|[<>|=]?b1|bool|u?int(8|16|32|64)|float(16|32|64)")
_MOST_DIMENSIONS = 32
_LARGEST = 2**48  # bytes; so that no product of lengths overflows


def decode(message: bytes | bytearray | memoryview) -> Any:
    """Unpack a message; its arrays are views of its bytes and not writable.

    Raises:
        ProtocolError: it is not msgpack, or holds an array that cannot be or must not be.
    """
    try:
        return msgpack.unpackb(
            message, object_hook=_array_of, ext_hook=_refuse, strict_map_key=False
        )
    except ProtocolError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolError(f"the message is not msgpack: {error!s:.80}") from error


def encode(tree: Any) -> bytes:
    """Pack in openpi's form, with the bytes keys that its own client looks for.

    Raises:
        BadObservation: something has no form in msgpack.
    """
    return _packed(tree, _openpi_form)


def encode_msgpack_numpy(tree: Any) -> bytes:
    """Pack in msgpack-numpy's form, with its bytes keys.

    Raises:
        BadObservation: something has no form in msgpack.
    """
    return _packed(tree, _msgpack_numpy_form)


def array(data: Any, dtype: Any, shape: Any) -> np.ndarray[Any, Any]:
    """An array over bytes, once its dtype, its shape and its size agree.

    Raises:
        ProtocolError: they do not, or the dtype is one that may hold objects.
    """
    kind = checked_dtype(dtype)
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise ProtocolError(f"an array's data is {type(data).__name__}: bytes are expected")
    if type(shape) not in (list, tuple) or len(shape) > _MOST_DIMENSIONS:
        raise ProtocolError(f"shape {show(shape)} is not a list of at most {_MOST_DIMENSIONS}")
    expected = kind.itemsize
    for length in shape:
        if type(length) is not int or not 0 <= length < _LARGEST:
            raise ProtocolError(f"shape {show(shape)} has a length that is no count")
        expected *= length
    if len(data) != expected:
        raise ProtocolError(
            f"an array of shape {show(shape)}, dtype {kind.str} has {expected} bytes: "
            f"{len(data)} came"
        )
    try:
        return np.ndarray(shape, kind, data)
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"an array of shape {show(shape)} cannot be: {error}") from error


@functools.lru_cache(maxsize=256)
def checked_dtype(name: Any) -> np.dtype[Any]:
    """The dtype of that name: booleans, integers, floats, bytes or text.

    Raises:
        ProtocolError: it is another one, such as objects and structures, or none.
    """
    text = name.decode("latin-1") if isinstance(name, bytes) else name
    if not isinstance(text, str) or not _DTYPE.fullmatch(text):
        raise ProtocolError(f"dtype {show(name)} is refused: numbers, bytes and text only")
    try:
        return np.dtype(text)
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"dtype {show(name)} is unknown to numpy") from error


def _refuse(code: int, data: bytes) -> None:
    raise ProtocolError(f"extension type {code} of msgpack is none that is understood here")


def _array_of(found: dict[Any, Any]) -> Any:
    if len(found) > 6:
        return found  # no array's form has so many keys
    if found.get(b"__ndarray__") or found.get("__ndarray__"):
        return array(_field(found, "data"), _name(found, "dtype"), _field(found, "shape"))
    if found.get(b"__npgeneric__") or found.get("__npgeneric__"):
        return _scalar(checked_dtype(_name(found, "dtype")), _field(found, "data"))
    nd = found.get("nd", found.get(b"nd"))
    if type(nd) is bool and _field(found, "type") is not None:
        shape = _field(found, "shape") if nd else []
        made = array(_field(found, "data"), _name(found, "type"), shape)
        return made if nd else made[()]
    return found


def _field(found: dict[Any, Any], name: str) -> Any:
    return found.get(name, found.get(name.encode()))


def _name(found: dict[Any, Any], name: str) -> str | bytes:
    value = _field(found, name)
    if not isinstance(value, (str, bytes)):  # a list describes a structure
        raise ProtocolError(f"dtype {show(value)} is refused: numbers, bytes and text only")
    return value


def _scalar(dtype: np.dtype[Any], data: Any) -> Any:
    if not isinstance(data, (bool, int, float, str, bytes)):
        raise ProtocolError(f"a scalar's data is {type(data).__name__}: a number is expected")
    try:
        return dtype.type(data)
    except (ValueError, TypeError, OverflowError) as error:
        raise ProtocolError(f"{show(data)} is no {dtype.name}") from error


def _packed(tree: Any, form: Any) -> bytes:
    try:
        packed: bytes = msgpack.packb(tree, default=form)
    except (TypeError, ValueError, OverflowError) as error:
        raise BadObservation(f"it cannot be sent as msgpack: {error}") from error
    return packed


def _plain(value: np.ndarray[Any, Any] | np.generic) -> None:
    if value.dtype.kind not in "buifSU":
        raise TypeError(f"dtype {value.dtype} has no form there")


def _openpi_form(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        _plain(value)
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    if isinstance(value, np.generic):
        _plain(value)
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"{type(value).__name__} has no form there")


def _msgpack_numpy_form(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        _plain(value)
        form = {b"nd": False, b"type": value.dtype.str, b"data": value.tobytes()}
        if isinstance(value, np.ndarray):
            form.update({b"nd": True, b"kind": b"", b"shape": value.shape})
        return form
    raise TypeError(f"{type(value).__name__} has no form there")
