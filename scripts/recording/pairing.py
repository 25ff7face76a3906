"""Puts the tap's messages together: an exchange is a request and the answer that came to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from client.body import Buffer, decode_body
from client.errors import PolicyError, ProtocolError
from client.memory_reader import Mappings
from client.tap import REQUEST, Tapped
from client.wire import RequestId
from scripts.recording.exchange import Exchange, whole_id

MOST_BYTES = 512_000_000  # of requests whose answers have not come; the oldest make room
_DEEPEST = 64  # dicts and lists within each other
_LARGEST = 2**28  # bytes of one request in shared memory


@dataclass(frozen=True)
class _Asked:
    """A request whose answer has not come yet."""

    message: Tapped
    frames: Sequence[Buffer]  # its body and buffers; none: see `missing`
    missing: str
    size: int


class Pairing:
    """Takes messages in their order; what is held for answers to come is bounded.

    Attributes:
        unmatched: answers to requests that were asked before, or whose message was lost, and
            requests whose answers never came.
    """

    def __init__(self) -> None:
        self.unmatched = 0
        self._asked: dict[RequestId, _Asked] = {}
        self._bytes = 0
        self._mappings = Mappings(_LARGEST)

    def take(self, message: Tapped) -> Exchange | None:
        """Take a message; returns an exchange when it is an answer to a request that was seen.

        What a request left in shared memory is copied now: the robot will soon use it again.
        """
        if message.kind == REQUEST:
            self._keep(message)
            return None
        asked = self._pop(message.id)
        if asked is None:
            self.unmatched += 1
            return None
        return _exchange(asked, message)

    def tidy(self) -> None:
        """Let go of the memory of robots that have gone; to be called now and then."""
        self._mappings.forget_closed()

    def close(self) -> None:
        """Let go of everything."""
        self._asked.clear()
        self._mappings.close()

    def _keep(self, message: Tapped) -> None:
        frames, missing = self._frames(message)
        size = sum(map(len, frames))
        if self._pop(message.id) is not None:
            self.unmatched += 1
        self._asked[message.id] = _Asked(message, frames, missing, size)
        self._bytes += size
        while self._bytes > MOST_BYTES:
            self._pop(next(iter(self._asked)))
            self.unmatched += 1

    def _pop(self, id: RequestId) -> _Asked | None:
        asked = self._asked.pop(id, None)
        if asked is not None:
            self._bytes -= asked.size
        return asked

    def _frames(self, message: Tapped) -> tuple[Sequence[Buffer], str]:
        """A request's body and buffers, or none and the reason."""
        reference = message.fields.get("memory")
        if reference is None or not message.payload:
            return message.payload, ""
        try:
            copies = self._mappings.snapshot(reference, message.fields.get("written"))
        except PolicyError as error:
            return [], f"it lay in shared memory that cannot be read from here: {error}"
        if copies is None:
            return [], "it lay in shared memory that its robot has written to since"
        return [message.payload[0], *copies], ""


def _exchange(asked: _Asked, answer: Tapped) -> Exchange:
    fields, replied = asked.message.fields, answer.fields
    observation, missing = _decoded(asked.frames, asked.missing)
    error: tuple[str, str] | None = None
    result: dict[str, Any] | None = None
    if "code" in replied:
        error = str(replied["code"]), str(replied.get("message", ""))
    else:
        result, unreadable = _decoded(answer.payload, "")
        if result is None:
            error = ProtocolError.code(), unreadable
    return Exchange(
        id=whole_id(answer.id),
        client=answer.id.client.hex(),
        robot=str(fields.get("robot", "")),
        key=str(fields.get("key", "")),
        session=str(fields.get("session", "")),
        policy=str(replied.get("policy", "")),
        worker=str(replied.get("worker", "")),
        at=asked.message.at,
        answered_at=answer.at,
        observation=observation,
        result=result,
        error=error,
        timing=dict(replied.get("timing", {})),
        missing=missing,
    )


def _decoded(frames: Sequence[Buffer], missing: str) -> tuple[dict[str, Any] | None, str]:
    """A body's tree, or None and why there is none."""
    if missing:
        return None, missing
    try:
        tree = decode_body(frames)
    except PolicyError as error:
        return None, f"it cannot be decoded: {error}"
    if _is_deep(tree):
        return None, f"it is nested more than {_DEEPEST} deep"
    return tree, ""


def _is_deep(tree: dict[str, Any]) -> bool:
    """Whether it is nested so deep that readers and writers of a log would give up."""
    level: list[Any] = [tree]
    for _ in range(_DEEPEST):
        members = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for group in members for each in group if isinstance(each, dict | list)]
    return bool(level)
