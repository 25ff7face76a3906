"""LeRobot's messages as bytes: protobuf's wire format, pickles that are written, observations."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, Literal, overload

import numpy as np

from client.errors import BadObservation, ProtocolError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # protobuf's wire types
_STATE = "observation.state"
_IMAGES = "observation.images."


@overload
def field_of(message: bytes, field: int, *, number: Literal[True]) -> int: ...
@overload
def field_of(message: bytes, field: int) -> bytes: ...
def field_of(message: bytes, field: int, *, number: bool = False) -> bytes | int:
    """The last value of a field of a protobuf message; 0 or no bytes where there is none.

    Raises:
        ProtocolError: it is no such message.
    """
    found: bytes | int = 0 if number else b""
    for name, value in _fields(message):
        if name == field and isinstance(value, int) is number:
            found = value
    return found


def chunk_of(data: bytes) -> bytes:
    """A protobuf message with these bytes as its field 1."""
    length, size = b"", len(data)
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return b"\x0a" + length + bytes([size]) + data


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ProtocolError("a message is no protobuf of this service")
        if size > len(message) - at:
            raise ProtocolError("a message ends within a field")
        yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ProtocolError("a message ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ProtocolError("a message has a number of more than 64 bits")


def dump_actions(
    module: str,
    actions: np.ndarray[Any, Any],
    *,
    timestamp: float,
    timestep: int,
    step_s: float,
) -> bytes:
    """A pickled list of LeRobot's `TimedAction`, whose actions are torch's tensors.

    Args:
        module: where the client has that class.
        actions: (steps, action dim).
        timestamp: of the first, in seconds.
        timestep: of the first.
        step_s: seconds from one to the next.
    """
    parts = [b"\x80\x02]("]
    for number, action in enumerate(actions):
        tensor = b"ctorch\ntensor\n](" + b"".join(map(_float, action)) + b"e\x85R"
        stamp = _float(timestamp + number * step_s)
        step = b"J" + struct.pack("<i", min(timestep + number, 2**31 - 1))
        fields = _text("timestamp") + stamp + _text("timestep") + step + _text("action") + tensor
        parts.append(f"c{module}\nTimedAction\n".encode() + b")\x81}(" + fields + b"ub")
    return b"".join([*parts, b"e."])


def _float(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def _text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def flat_observation(raw: Any, features: Any) -> dict[str, Any]:
    """A robot's raw observation with LeRobot's own keys beside its own.

    `observation.state` (float32) is put together of the numbers that the features name, and
    `observation.images.NAME` is the camera NAME.

    Raises:
        BadObservation: it is no observation, or lacks what its features name.
    """
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise BadObservation("an observation must be a dictionary of named values")
    for name, value in raw.items():
        if not isinstance(value, (str, int, float, np.ndarray, np.generic)):
            raise BadObservation(f"{name:.80} is neither a number, a text nor an array")
    flat = dict(raw)
    for name, feature in (features if isinstance(features, dict) else {}).items():
        if not isinstance(name, str) or not isinstance(feature, dict) or name in flat:
            continue
        if name == _STATE:
            flat[name] = _state(raw, feature.get("names"))
        elif name.startswith(_IMAGES):
            camera = name[len(_IMAGES) :]
            if camera not in raw:
                raise BadObservation(f"the observation has no camera {camera!r:.80}")
            flat[name] = raw[camera]
    return flat


def _state(raw: dict[Any, Any], names: Any) -> np.ndarray[Any, Any]:
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise BadObservation("the feature observation.state has no names")
    missing = [name for name in names if name not in raw]
    if missing:
        raise BadObservation(f"the observation lacks {', '.join(missing)[:200]}")
    try:
        return np.asarray([float(raw[name]) for name in names], np.float32)
    except (TypeError, ValueError) as error:
        raise BadObservation(f"observation.state is not of numbers: {error}") from error
