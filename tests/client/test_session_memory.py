"""What a session sends where memory can be shared, and what it does when it cannot after all."""

from __future__ import annotations

from typing import Any

import pytest
import zmq

from client import errors
from client.session import Done, Failed, Send, Session, Wait
from client.shared_memory import FIRST_PAUSE_S, Written
from client.wire import FROM_CLIENT, Header, decode_header, encode_header

HERE = b"here"
BODY: list[bytes | memoryview] = [b"body", b"buffer one", b"buffer two"]


class Talk:
    """A session, and the broker that the test speaks for."""

    def __init__(self, host: bytes = HERE) -> None:
        self.session = Session(bytes(16), {"v": 1, "buffers": True}, host=host)
        self.now = 1000.0
        self.header: Header = {}
        self.frames: list[Any] = []

    def ask(self, reference: bytes | None = None, body: Any = None, kind: str = "infer") -> None:
        """Ask for a chunk; what leaves is in `header` and `frames`."""
        body = BODY if body is None else body
        written = None if reference is None else Written(reference, 7)
        self._take(self.session.ask(kind, body, self.now + 10.0, self.now, written))

    def hears(self, kind: str, **fields: Any) -> Any:
        """The broker answers; returns what follows, if nothing is sent again."""
        header = {"v": 1, "kind": kind, "id": self.header["id"], **fields}
        action = self.session.received([zmq.Frame(encode_header(header))], self.now)
        if isinstance(action, Send):
            self._take(action)
            return None
        return action

    def lose(self) -> None:
        """The connection is lost and made again, and the broker says what it takes."""
        pause = self.session.lost(self.now)
        self.now = pause.until  # type: ignore[union-attr]
        self._take(self.session.wake(self.now))
        assert self.header["kind"] == "ping"
        pong = {"v": 1, "kind": "pong", "id": self.header["id"]}
        frames = [zmq.Frame(encode_header(pong)), zmq.Frame(b"\x80")]
        self._take(self.session.received(frames, self.now))

    def _take(self, action: Any) -> None:
        assert isinstance(action, Send)
        self.header = decode_header(bytes(action.frames[0]), FROM_CLIENT)
        self.frames = action.frames[1:]
        assert isinstance(self.session.sent(), Wait)


@pytest.fixture
def talk() -> Talk:
    return Talk()


def test_it_offers_memory_until_a_worker_of_this_host_answers(talk: Talk) -> None:
    for host in (None, b"there", HERE):
        talk.ask()
        assert (talk.header["host"], talk.frames) == (HERE, BODY)
        assert not talk.session.memory.is_on
        answer = talk.hears("result", **({} if host is None else {"host": host}))
        assert isinstance(answer, Done)
    assert talk.session.memory.is_on


def test_only_what_has_buffers_offers_memory(talk: Talk) -> None:
    talk.ask(body=[b"small"])
    assert "host" not in talk.header
    talk.ask(body=[], kind="ping")
    assert "host" not in talk.header


def test_one_that_cannot_share_offers_nothing() -> None:
    talk = Talk(host=b"")
    talk.ask()
    assert "host" not in talk.header


def test_what_else_is_answered_does_not_count(talk: Talk) -> None:
    talk.ask(kind="metadata", body=[])
    talk.hears("result", host=HERE)
    assert not talk.session.memory.is_on


def test_a_reference_travels_in_place_of_the_buffers(talk: Talk) -> None:
    talk.ask(reference=b"reference")
    assert (talk.header["memory"], talk.frames) == (b"reference", BODY[:1])
    assert talk.header["written"] == 7
    assert "host" not in talk.header


def test_a_worker_that_cannot_follow_it_gets_the_same_request_by_bytes(talk: Talk) -> None:
    talk.ask()
    talk.hears("result", host=HERE)
    talk.ask(reference=b"reference")
    id, talk.now = talk.header["id"], talk.now + 3.0
    assert talk.hears("error", code="memory_unreachable", message="no") is None
    assert (talk.header["id"], talk.frames) == (id, BODY)
    assert "memory" not in talk.header
    assert talk.header["deadline_ms"] < 7000.0
    assert isinstance(talk.hears("result"), Done)
    assert not talk.session.memory.is_on


def test_after_that_it_waits_before_it_offers_memory_again(talk: Talk) -> None:
    talk.ask(reference=b"reference")
    talk.hears("error", code="memory_unreachable")
    talk.hears("result")
    talk.ask()
    assert "host" not in talk.header
    talk.hears("result")
    talk.now += FIRST_PAUSE_S
    talk.ask()
    assert talk.header["host"] == HERE


def test_the_error_is_nobodys_answer_to_a_request_by_bytes(talk: Talk) -> None:
    talk.ask()
    failed = talk.hears("error", code="memory_unreachable", message="no")
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, errors.MemoryUnreachable)


def test_with_no_time_left_it_gives_up(talk: Talk) -> None:
    talk.ask(reference=b"reference")
    talk.now += 10.0
    failed = talk.hears("error", code="memory_unreachable")
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, errors.DeadlineExceeded)


def test_after_a_lost_connection_the_reference_goes_out_again(talk: Talk) -> None:
    talk.ask(reference=b"reference")
    id = talk.header["id"]
    talk.lose()
    assert (talk.header["id"], talk.header["memory"]) == (id, b"reference")
    assert talk.frames == BODY[:1]


def test_the_brokers_limit_is_that_of_all_the_bytes(talk: Talk) -> None:
    talk.session.max_bytes = len(b"".join(BODY)) - 1
    talk.ask(reference=b"reference")
    assert talk.header["kind"] == "ping"
    failed = talk.hears("pong")
    assert isinstance(failed, Failed)
