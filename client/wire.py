"""Protocol version 1: what a message looks like, and the header that every message starts with.

A message is `[header, body, buffer, ...]`. The header is a msgpack map of at most `MAX_HEADER`
bytes and is all that the broker reads; body and buffers are `client.body`'s. Towards robots a
return envelope precedes it: everything up to and including the first empty frame.

Header fields are data (`FIELDS`): each has one check, and a message whose header passes
`decode_header` holds only values in range, so nobody behind it needs to check again.
"""

from __future__ import annotations

import math
import reprlib
from typing import Any, Callable, Dict, NamedTuple, Sequence, Tuple, Union

import msgpack
import zmq

from client.errors import ProtocolError, VersionMismatch

VERSION = 1
MAX_HEADER = 4096  # bytes
MAX_FRAMES = 64  # of one message, header and body included
MAX_NAME = 128  # characters in a name of anything
MAX_STAGES = 32  # of timing that one message may tell
MAX_SLOTS = 64  # requests that one worker may hold
LONGEST_MS = 24 * 3600 * 1000.0  # no deadline or duration is longer than a day
MAX_INT = 2**63 - 1
_SHOWN = 200  # characters of a value in an error message

Kinds = Dict[str, Tuple[str, ...]]
"""Kinds of messages, each with the fields that it cannot do without."""
FROM_CLIENT: Kinds = dict.fromkeys(["infer", "reset", "metadata", "ping", "status"], ())
TO_CLIENT: Kinds = {"result": (), "error": ("code",), "pong": ()}
FROM_WORKER: Kinds = {
    "hello": ("policy", "incarnation"),
    "ready": (),
    "heartbeat": (),
    "result": ("id", "attempt"),
    "failure": ("id", "attempt"),
    "goodbye": (),
}
TO_WORKER: Kinds = {
    "welcome": ("epoch",),
    "infer": ("id", "attempt", "epoch"),
    "heartbeat": ("epoch",),
    "who": (),
    "error": (),
}
KINDS: Kinds = dict.fromkeys([*FROM_CLIENT, *TO_CLIENT, *FROM_WORKER, *TO_WORKER], ())

# Plain integers and the C method itself: pyzmq's enumerations and wrappers cost as much again as
# sending does (benchmarks/LOG.md).
_EVENTS, _READABLE, _NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)
_MORE = int(zmq.SNDMORE) | _NOBLOCK
_PACK = msgpack.Packer().pack
_SEND: Callable[..., object] = zmq.backend.Socket.send

Header = Dict[str, Any]
Frame = Union[bytes, zmq.Frame]


class RequestId(NamedTuple):
    """Names one request for ever: who asked, and a number that grows with each request.

    `client` is a uuid's 16 bytes, or the routing id of a client that gives no `id`.
    """

    client: bytes
    sequence: int

    def __str__(self) -> str:
        """As logs of every process show it."""
        return f"{self.client.hex()[:8]}/{self.sequence}"


def encode_header(header: Header) -> bytes:
    """Pack a header; the caller vouches for its fields."""
    packed: bytes = _PACK(header)
    return packed


def decode_header(frame: Frame, expected: Kinds = KINDS) -> Header:
    """Unpack and check a header.

    Args:
        frame: the header's bytes.
        expected: the kinds that this peer may send, with what each needs.

    Returns:
        The map, `id` and the members of `ids` as tuples. Fields that this version does not
        know are kept unchecked, so that later ones can add some.

    Raises:
        ProtocolError: not a header, or a field is missing or out of its range; the message
            names the field.
        VersionMismatch: another version's header.
    """
    size = len(frame)
    if size > MAX_HEADER:
        raise ProtocolError(f"header of {size} bytes: at most {MAX_HEADER} are allowed")
    try:
        header = msgpack.unpackb(frame, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolError("the first frame is not a header: a msgpack map is expected") from error
    if not isinstance(header, dict):
        raise ProtocolError(f"header is a msgpack {type(header).__name__}: a map is expected")
    version = header.get("v")
    if version != VERSION or isinstance(version, (bool, float)):
        raise VersionMismatch(f"header has v={show(version)}: this peer speaks version {VERSION}")
    kind = header.get("kind")
    if not isinstance(kind, str) or kind not in expected:
        raise ProtocolError(f"kind {show(kind)} is not one of {', '.join(sorted(expected))}")
    for field in expected[kind]:
        if field not in header:
            raise ProtocolError(f"{kind} needs the header field {field!r}")
    for field, value in header.items():
        rule = _RULES.get(field)
        if rule is None:
            continue  # a later version's
        usual, low, high, check = rule
        if type(value) is usual and low <= (len(value) if usual is str else value) <= high:
            continue  # most fields: what their check would say, without the call
        header[field] = check(field, value)
    return header


def split_envelope(frames: Sequence[zmq.Frame]) -> tuple[Sequence[zmq.Frame], Sequence[zmq.Frame]]:
    """Split what a ROUTER received into the return envelope and the message behind it.

    Raises:
        ProtocolError: there is no empty frame, so nobody knows where the envelope ends.
    """
    for index, frame in enumerate(frames):
        if len(frame) == 0:
            return frames[: index + 1], frames[index + 1 :]
    raise ProtocolError(
        "no empty frame before the header: send with a REQ socket, or put an empty frame first"
    )


def receive(socket: zmq.Socket[bytes]) -> list[zmq.Frame] | None:
    """Take one whole message without copying and without waiting; None where there is none."""
    if not int(socket.getsockopt(_EVENTS)) & _READABLE:
        return None
    try:
        frame = socket.recv(_NOBLOCK, False)
    except zmq.Again:
        return None
    frames = [frame]
    while frame.more:
        frame = socket.recv(0, False)
        frames.append(frame)
    return frames


def send(socket: zmq.Socket[bytes], frames: Sequence[bytes | memoryview | zmq.Frame]) -> None:
    """Send one whole message without waiting; large frames are not copied.

    Raises:
        zmq.Again: it would have to wait.
        zmq.ZMQError: as the socket's kind has it, such as EHOSTUNREACH of a ROUTER.
    """
    left = len(frames)
    for frame in frames:
        left -= 1
        _SEND(socket, frame, _MORE if left else _NOBLOCK, type(frame) is bytes)


def show(value: Any) -> str:
    """A value of a peer's for an error message: short, however long or deeply nested it is."""
    text = reprlib.repr(value)  # which bounds each level, and not the whole
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _refuse(field: str, value: Any, expected: str) -> ProtocolError:
    return ProtocolError(f"header field {field!r} is {show(value)}: {expected} is expected")


def _integer(low: int, high: int) -> Callable[[str, Any], int]:
    def check(field: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _refuse(field, value, f"an integer from {low} to {high}")
        return value

    return check


def _number(low: float, high: float) -> Callable[[str, Any], float]:
    def check(field: str, value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:  # also refuses NaN
            raise _refuse(field, value, f"a number from {low:g} to {high:g}")
        return float(value)

    return check


def _text(longest: int, shortest: int = 1) -> Callable[[str, Any], str]:
    def check(field: str, value: Any) -> str:
        if type(value) is not str or not shortest <= len(value) <= longest:
            raise _refuse(field, value, f"a string of {shortest} to {longest} characters")
        return value

    return check


def _boolean(field: str, value: Any) -> bool:
    if type(value) is not bool:
        raise _refuse(field, value, "true or false")
    return value


def _uuid(field: str, value: Any) -> bytes:
    if type(value) is not bytes or len(value) != 16:
        raise _refuse(field, value, "16 bytes")
    return value


def _request_id(field: str, value: Any) -> RequestId:
    if type(value) is not list or len(value) != 2:
        raise _refuse(field, value, "[client (bytes), sequence (integer)]")
    client, sequence = value
    if type(client) is not bytes or not 1 <= len(client) <= 255:
        raise _refuse(field, value, "a client of 1 to 255 bytes (16, a uuid's, from robots)")
    if type(sequence) is not int or not 0 <= sequence <= MAX_INT:
        raise _refuse(field, value, f"a sequence number from 0 to {MAX_INT}")
    return RequestId(client, sequence)


def _attempts(field: str, value: Any) -> list[tuple[RequestId, int]]:
    if type(value) is not list or len(value) > MAX_SLOTS:
        raise _refuse(field, value, f"a list of at most {MAX_SLOTS} [id, attempt]")
    attempts = []
    for member in value:
        if type(member) is not list or len(member) != 2:
            raise _refuse(field, member, "[id, attempt]")
        attempts.append((_request_id(field, member[0]), FIELDS["attempt"](field, member[1])))
    return attempts


def _state(field: str, value: Any) -> str:
    if value not in ("warming", "ready", "draining"):
        raise _refuse(field, value, "warming, ready or draining")
    return str(value)


def _timing(field: str, value: Any) -> dict[str, float]:
    if type(value) is not dict or len(value) > MAX_STAGES:
        raise _refuse(field, value, f"a map of at most {MAX_STAGES} stages")
    for stage, spent in value.items():
        if type(stage) is not str or type(spent) not in (int, float) or not math.isfinite(spent):
            raise _refuse(field, value, "a map of stage names to milliseconds")
    return value


FIELDS: dict[str, Callable[[str, Any], Any]] = {
    "v": _integer(VERSION, VERSION),
    "kind": _text(16),
    # client
    "id": _request_id,
    "policy": _text(MAX_NAME),
    "deadline_ms": _number(0.0, LONGEST_MS),
    "priority": _integer(0, 9),
    "session": _text(MAX_NAME, shortest=0),
    "robot": _text(MAX_NAME, shortest=0),
    "buffers": _boolean,
    # broker and worker
    "attempt": _integer(1, 1000),
    "epoch": _integer(0, MAX_INT),
    "incarnation": _uuid,
    "digest": _text(MAX_NAME, shortest=0),
    "horizon": _integer(0, 100_000),
    "state": _state,
    "slots": _integer(1, MAX_SLOTS),
    "inference_ms": _number(0.0, LONGEST_MS),
    "ids": _attempts,
    "n": _integer(0, MAX_INT),
    "heartbeat_ms": _number(1.0, LONGEST_MS),
    "max_bytes": _integer(1, MAX_INT),
    # replies
    "timing": _timing,
    "code": _text(64),
    "message": _text(2048, shortest=0),
    "retry_after_ms": _number(0.0, LONGEST_MS),
}

# Of the fields that every request carries: the type and the range that need no further check.
_USUAL: dict[str, tuple[Any, float, float]] = {
    "v": (int, VERSION, VERSION),
    "kind": (str, 1, 16),
    "policy": (str, 1, MAX_NAME),
    "deadline_ms": (float, 0.0, LONGEST_MS),
    "priority": (int, 0, 9),
    "session": (str, 0, MAX_NAME),
    "robot": (str, 0, MAX_NAME),
    "buffers": (bool, False, True),
    "attempt": (int, 1, 1000),
    "epoch": (int, 0, MAX_INT),
    "n": (int, 0, MAX_INT),
}
_NEVER: tuple[Any, float, float] = (object, 0.0, 0.0)  # no value is a bare object
_RULES = {field: (*_USUAL.get(field, _NEVER), check) for field, check in FIELDS.items()}
