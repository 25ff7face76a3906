"""What the broker's tap says: every accepted request, and every final answer, as it passes by.

A message is `[topic, header, body, buffer, ...]`. Body and buffers are those of the robot's or the
worker's message (`client.body`). The topic is for subscribing: the policy's name and a zero byte,
the robot's name and a zero byte. The header is a msgpack map:

| field | meaning |
|---|---|
| `v`, `kind` | 1; `request` or `answer` |
| `n` | the message's number in its topic: where one is skipped, it was dropped |
| `at` | seconds of the broker's wall clock |
| `id` | the request's, [bytes, integer] |
| `policy`, `robot`, `key`, `session` | of the request; `key` is its key's name; empty: none |
| `priority`, `deadline_ms` | of a request, as its robot said |
| `memory`, `written` | of a request whose buffers are not here but in shared memory |
| `worker`, `attempt` | of an answer: which worker gave it, 8 hex digits, and how many tried |
| `timing` | of an answer: milliseconds by stage |
| `code`, `message` | of an answer that is an error |
"""

from __future__ import annotations

from typing import Any, NamedTuple, Sequence

import msgpack

from client.body import Buffer
from client.errors import ProtocolError, VersionMismatch
from client.names import AT
from client.wire import MAX_HEADER, Frame, RequestId, show

VERSION = 1
REQUEST, ANSWER = "request", "answer"
_ENDS = b"\0"


class Tapped(NamedTuple):
    """A message of the tap; `payload` is the body with its buffers, empty for an error."""

    topic: bytes
    kind: str
    number: int
    at: float
    id: RequestId
    fields: dict[str, Any]  # the header, all fields of it
    payload: Sequence[Buffer]


def topic(policy: str, robot: str | None = None) -> bytes:
    """What to subscribe to for a policy, or for one robot of it; empty bytes are everything."""
    name = policy.encode() + _ENDS
    return name if robot is None else name + robot.encode() + _ENDS


def topics(policy: str, robot: str | None = None) -> list[bytes]:
    """What to subscribe to for a policy and all its versions; those are then of every robot."""
    versions = [] if AT in policy else [f"{policy}{AT}".encode()]
    return [topic(policy, robot), *versions]


def encode_tapped(header: dict[str, Any]) -> bytes:
    """Pack a header; the broker vouches for its fields."""
    packed: bytes = msgpack.packb({"v": VERSION, **header})
    return packed


def decode_tapped(frames: Sequence[Frame]) -> Tapped:
    """Take a message of the tap apart; the body is not decoded.

    Raises:
        ProtocolError: whatever speaks there is no tap.
        VersionMismatch: it is a later broker's.
    """
    if len(frames) < 2 or len(frames[1]) > 2 * MAX_HEADER:
        raise ProtocolError("no message of a tap: [topic, header, body, buffers...] is expected")
    try:
        header = msgpack.unpackb(frames[1])
        version = header["v"]
        if version != VERSION:
            raise VersionMismatch(f"the tap has v={show(version)}: this program reads {VERSION}")
        client, sequence = header["id"]
        return Tapped(
            frames[0] if isinstance(frames[0], bytes) else frames[0].bytes,
            str(header["kind"]),
            int(header["n"]),
            float(header["at"]),
            RequestId(client, sequence),
            header,
            frames[2:],
        )
    except (KeyError, ValueError, TypeError, AttributeError, msgpack.UnpackException) as error:
        raise ProtocolError(f"no message of a tap: {show(error)}") from error


class Losses:
    """Counts the messages that a subscriber did not get, by the numbers of those that it did."""

    def __init__(self) -> None:
        self.count = 0
        self._last: dict[bytes, int] = {}

    def seen(self, message: Tapped) -> int:
        """Take note of a message; returns how many of its topic are missing before it."""
        last = self._last.get(message.topic, message.number - 1)
        self._last[message.topic] = message.number
        missing = max(0, message.number - last - 1)  # a broker that restarted counts from 1
        self.count += missing
        return missing
