"""Protocol version 1: what a message looks like, and the header that every message starts with.

A message is `[header, body, buffer, ...]`. The header is a msgpack map of at most `MAX_HEADER`
bytes and is all that the broker reads; body and buffers are `client.body`'s. Towards robots a
return envelope precedes it: everything up to and including the first empty frame. A header that
passes `decode_header` holds only values in range (`FIELDS`), so nobody needs to check again.
"""

from __future__ import annotations

import reprlib
from typing import Any, Callable, Dict, NamedTuple, Sequence, Tuple, Union

import msgpack
import zmq

from client.errors import ProtocolError, VersionMismatch

VERSION = 1
TRAFFIC = (LIVE, EVALUATION) = ("live", "evaluation")  # what a request is for
MAX_HEADER = 4096  # bytes
MAX_FRAMES = 64  # of one message, header and body included
MAX_NAME = 128  # characters in a name of anything
MAX_CLIENT = 32  # bytes that name a client: a heartbeat has room for `MAX_SLOTS` ids
MAX_HOST = 16  # bytes by which processes of one host know each other
MAX_MEMORY = 1024  # bytes of a reference to shared memory
MAX_METADATA = 1_000_000  # bytes of what a policy says about itself
MAX_STAGES = 32  # of timing, or rules of guards, that one message may tell
MAX_SLOTS = 64  # requests that one worker may hold
MOST_BREACHES = 100_000  # actions that one message may say broke one rule
LONGEST_MS = 24 * 3600 * 1000.0  # no deadline or duration is longer than a day
MAX_INT = 2**63 - 1
_SHOWN = 200  # characters of a value in an error message

Kinds = Dict[str, Tuple[str, ...]]  # of messages, each with the fields that it must have
FROM_CLIENT: Kinds = dict.fromkeys(["infer", "reset", "metadata", "ping", "status", "rollout"], ())
TO_CLIENT: Kinds = {"result": (), "error": ("code",), "pong": ()}
FROM_WORKER: Kinds = dict.fromkeys(["ready", "heartbeat", "goodbye"], ())
FROM_WORKER.update(hello=("policy", "incarnation"))
FROM_WORKER.update(result=("id", "attempt"), failure=("id", "attempt"))
TO_WORKER: Kinds = dict.fromkeys(["welcome", "heartbeat", "retire"], ("epoch",))
TO_WORKER.update(infer=("id", "attempt", "epoch"), who=(), error=())
KINDS: Kinds = dict.fromkeys([*FROM_CLIENT, *TO_CLIENT, *FROM_WORKER, *TO_WORKER], ())

# Plain integers and the C method: pyzmq's own cost as much as sending (benchmarks/LOG.md).
_EVENTS, _READABLE, _NOBLOCK = int(zmq.EVENTS), int(zmq.POLLIN), int(zmq.NOBLOCK)
_MORE = int(zmq.SNDMORE) | _NOBLOCK
_PACK: Callable[[Header], bytes] = msgpack.Packer().pack
_SEND: Callable[..., object] = zmq.backend.Socket.send

Header = Dict[str, Any]
Frame = Union[bytes, zmq.Frame]


class RequestId(NamedTuple):
    """Identifies one request for good: who asked, and a number that grows with each request.

    `client` is a uuid's 16 bytes; for a client that gives no `id`, it is made of its routing id.
    """

    client: bytes
    sequence: int

    def __str__(self) -> str:  # as logs of every process show it
        return f"{self.client.hex()[:8]}/{self.sequence}"


def encode_header(header: Header) -> bytes:
    """Pack a header; the caller vouches for its fields."""
    return _PACK(header)


def decode_header(frame: Frame, expected: Kinds = KINDS) -> Header:
    """Unpack and check a header.

    Args:
        frame: the header's bytes.
        expected: the kinds that this peer may send, with what each needs.

    Returns:
        The map, `id` and the members of `ids` as tuples. Fields that this version does not
        know are kept unchecked, so that later ones can add some.

    Raises:
        ProtocolError: not a header, or a field (then named) is missing or out of its range.
        VersionMismatch: another version's header.
    """
    if len(frame) > MAX_HEADER:
        raise ProtocolError(f"header of {len(frame)} bytes: at most {MAX_HEADER} are allowed")
    try:
        header = msgpack.unpackb(frame, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolError("the first frame is not a header: a msgpack map is expected") from error
    if not isinstance(header, dict):
        raise ProtocolError(f"header is a msgpack {type(header).__name__}: a map is expected")
    version = header.get("v")
    if type(version) is not int or version != VERSION:
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
            continue  # checked above, or a later version's
        usual, is_sized, low, high, check = rule
        if type(value) is usual and low <= (len(value) if is_sized else value) <= high:
            continue  # most fields: they are valid, at less cost than a call of their check
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
    raise ProtocolError("no empty frame before the header: use a REQ socket, or put one first")


def receive(socket: zmq.Socket[bytes]) -> list[zmq.Frame] | None:
    """Take one whole message without copying and without waiting; None where there is none."""
    return take(socket) if int(socket.getsockopt(_EVENTS)) & _READABLE else None


def take(socket: zmq.Socket[bytes]) -> list[zmq.Frame] | None:
    """As `receive`, for a socket that was seen to be readable: it asks no second time."""
    try:
        frames = [frame := socket.recv(_NOBLOCK, False)]
    except zmq.Again:
        return None
    while frame.more:
        frame = socket.recv(0, False)
        frames.append(frame)
    return frames


def send(socket: zmq.Socket[bytes], frames: Sequence[bytes | memoryview | zmq.Frame]) -> None:
    """Send one whole message without waiting; large frames are not copied.

    Raises:
        zmq.Again: it would have to wait.
        zmq.ZMQError: whatever else sending on this socket raises, as EHOSTUNREACH of a ROUTER.
    """
    left = len(frames)
    for frame in frames:
        left -= 1
        _SEND(socket, frame, _MORE if left else _NOBLOCK, type(frame) is bytes)


def show(value: Any) -> str:
    """A peer's value as error messages show it: short, however long or deeply nested it is."""
    text = reprlib.repr(value)  # this bounds each level, but not the whole
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


def _sized(usual: type[str | bytes], longest: int, shortest: int = 1) -> Callable[[str, Any], Any]:
    what = "a string of {} to {} characters" if usual is str else "{} to {} bytes"

    def check(field: str, value: Any) -> Any:
        if type(value) is not usual or not shortest <= len(value) <= longest:
            raise _refuse(field, value, what.format(shortest, longest))
        return value

    return check


def _one_of(*allowed: str | bool) -> Callable[[str, Any], Any]:
    def check(field: str, value: Any) -> Any:
        if type(value) is not type(allowed[0]) or value not in allowed:
            raise _refuse(field, value, " or ".join(map(str, allowed)).lower())
        return value

    return check


def _request_id(field: str, value: Any) -> RequestId:
    if type(value) is not list or len(value) != 2:
        raise _refuse(field, value, "[client (bytes), sequence (integer)]")
    client, sequence = value
    if type(client) is not bytes or not 1 <= len(client) <= MAX_CLIENT:
        raise _refuse(field, value, f"a client of 1 to {MAX_CLIENT} bytes (a uuid's 16)")
    if type(sequence) is not int or not 0 <= sequence <= MAX_INT:
        raise _refuse(field, value, f"a sequence number from 0 to {MAX_INT}")
    return tuple.__new__(RequestId, value)  # its own constructor is one call more


def _attempts(field: str, value: Any) -> list[tuple[RequestId, int]]:
    if type(value) is not list or len(value) > MAX_SLOTS:
        raise _refuse(field, value, f"a list of at most {MAX_SLOTS} [id, attempt]")
    attempts = []
    for member in value:
        if type(member) is not list or len(member) != 2:
            raise _refuse(field, member, "[id, attempt]")
        attempts.append((_request_id(field, member[0]), FIELDS["attempt"](field, member[1])))
    return attempts


def _numbers(most: int, what: str, low: float, high: float) -> Callable[[str, Any], Any]:
    def check(field: str, value: Any) -> dict[str, float]:
        if type(value) is not dict or len(value) > most:
            raise _refuse(field, value, f"a map of at most {most} {what}")
        for name, number in value.items():  # a comparison refuses NaN as well
            usual = type(name) is str and type(number) in (int, float)
            if not (usual and low <= number <= high):
                raise _refuse(field, value, f"a map of {what}")
        return value

    return check


FIELDS: dict[str, Callable[[str, Any], Any]] = {
    "v": _integer(VERSION, VERSION),
    "kind": _sized(str, 16),
    # client; `host` and `memory` are passed on to the worker, and `host` comes back
    "id": _request_id,
    "policy": _sized(str, MAX_NAME),
    "version": _sized(str, MAX_NAME),
    "deadline_ms": _number(0.0, LONGEST_MS),
    "priority": _integer(0, 9),
    "session": _sized(str, MAX_NAME, 0),
    "robot": _sized(str, MAX_NAME, 0),
    "traffic": _one_of(*TRAFFIC),
    "buffers": _one_of(True, False),
    "held": _integer(0, MAX_INT),
    "host": _sized(bytes, MAX_HOST),
    "memory": _sized(bytes, MAX_MEMORY),
    "written": _integer(0, MAX_INT),
    "attempt": _integer(1, 1000),
    "epoch": _integer(0, MAX_INT),
    "incarnation": _sized(bytes, 16, 16),
    "digest": _sized(str, MAX_NAME, 0),
    "horizon": _integer(0, 100_000),
    "state": _one_of("warming", "ready", "draining"),
    "slots": _integer(0, MAX_SLOTS),
    "grant": _integer(0, MAX_INT),
    "waiting": _integer(0, MAX_INT),
    "inference_ms": _number(0.0, LONGEST_MS),
    "batch": _integer(1, MAX_SLOTS),
    "breaches": _numbers(MAX_STAGES, "joints' rules to counts", 1, MOST_BREACHES),
    "ids": _attempts,
    "n": _integer(0, MAX_INT),
    "heartbeat_ms": _number(1.0, LONGEST_MS),
    "max_bytes": _integer(1, MAX_INT),
    "ipc": _sized(str, MAX_NAME),
    "timing": _numbers(MAX_STAGES, "stage names to milliseconds", -1e300, 1e300),
    "code": _sized(str, 64),
    "message": _sized(str, 2048, 0),
    "retry_after_ms": _number(0.0, LONGEST_MS),
}

# Of the fields of every request: the type and the range (of lengths) that need no further check.
_USUAL: dict[str, tuple[Any, float, float]] = {
    "policy": (str, 1, MAX_NAME),
    "deadline_ms": (float, 0.0, LONGEST_MS),
    "priority": (int, 0, 9),
    "session": (str, 0, MAX_NAME),
    "robot": (str, 0, MAX_NAME),
    "buffers": (bool, False, True),
    "held": (int, 0, MAX_INT),
    "host": (bytes, 1, MAX_HOST),
    "memory": (bytes, 1, MAX_MEMORY),
    "attempt": (int, 1, 1000),
    "epoch": (int, 0, MAX_INT),
    "n": (int, 0, MAX_INT),
}
_RULES = {
    field: (usual, usual in (str, bytes), low, high, FIELDS[field])
    for field in FIELDS.keys() - {"v", "kind"}
    for usual, low, high in [_USUAL.get(field, (object, 0.0, 0.0))]  # which no value is
}
