"""The client's protocol by lists of events: what it sends, and again, and when it gives up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import zmq

from client import errors
from client.body import encode_body
from client.session import (
    EPISODES,
    FIRST_PAUSE_S,
    LIMITS_S,
    LONGEST_PAUSE_S,
    NOT_YET_S,
    Action,
    Body,
    Done,
    Failed,
    Pause,
    Send,
    Session,
    Wait,
)
from client.wire import FROM_CLIENT, Header, decode_header, encode_header

BODY: Body = [b"observation"]
UNTIL = 100.0


@pytest.fixture
def session() -> Session:
    return Session(b"c" * 16, {"v": 1, "session": "s"})


def header_of(action: Action) -> Header:
    assert isinstance(action, Send), action
    return decode_header(bytes(action.frames[0]), FROM_CLIENT)


def reply(header: Header, kind: str = "result", **fields: Any) -> list[zmq.Frame]:
    content = {"v": 1, "kind": kind, "id": header["id"], **fields}
    return [zmq.Frame(encode_header(content)), zmq.Frame(b"\x80")]


def pong(header: Header, max_bytes: int) -> list[zmq.Frame]:
    (body,) = encode_body({"max_bytes": max_bytes})
    return [reply(header, "pong")[0], zmq.Frame(bytes(body))]


def fails(header: Header, error: errors.PolicyError) -> Sequence[zmq.Frame]:
    return reply(header, "error", **errors.to_wire(error))[:1]


def asked(session: Session, now: float = 0.0) -> Header:
    header = header_of(session.ask("infer", BODY, UNTIL, now))
    assert session.sent() == Wait(UNTIL, may_be_long=True)
    return header


def test_one_request_and_its_answer(session: Session) -> None:
    action = session.ask("infer", BODY, 10.0, 2.0)
    assert isinstance(action, Send)
    assert action.frames[1:] == BODY
    header = header_of(action)
    assert header["deadline_ms"] == pytest.approx(7900.0)  # a little less than is left
    session.sent()
    outcome = session.received(reply(header), 3.0)
    assert isinstance(outcome, Done)
    assert outcome.header["kind"] == "result"


def test_calls_have_ids_of_their_own(session: Session) -> None:
    assert asked(session)["id"] != asked(session)["id"]


def test_after_a_loss_it_asks_what_is_taken_and_then_the_same_again(session: Session) -> None:
    header = asked(session)
    assert session.lost(1.0) == Pause(1.0)
    limits = header_of(session.wake(1.0))
    assert limits["kind"] == "ping"
    assert limits["id"] != header["id"]
    session.sent()
    again = header_of(session.received(pong(limits, 1000), 1.5))
    assert (again["kind"], again["id"]) == ("infer", header["id"])
    assert again["deadline_ms"] < header["deadline_ms"]


def test_after_a_loss_what_has_no_body_is_asked_at_once(session: Session) -> None:
    header = header_of(session.ask("reset", [], UNTIL, 0.0))
    session.sent()
    session.lost(1.0)
    again = header_of(session.wake(1.0))
    assert (again["kind"], again["id"]) == ("reset", header["id"])


def test_a_peer_that_hangs_up_each_time_is_asked_ever_less_often(session: Session) -> None:
    asked(session)
    now, pauses = 0.0, []
    for _ in range(9):
        pause = session.lost(now)
        assert isinstance(pause, Pause)
        pauses.append(pause.until - now)
        now = pause.until
        session.wake(now)
        session.sent()
    expected = [0.0, *(FIRST_PAUSE_S * 2**n for n in range(7)), LONGEST_PAUSE_S]
    assert pauses == pytest.approx(expected)


def test_another_broker_takes_less(session: Session) -> None:
    asked(session)
    session.lost(1.0)
    limits = header_of(session.wake(1.0))
    session.sent()
    outcome = session.received(pong(limits, 3), 2.0)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, errors.MessageTooLarge)
    assert outcome.is_clean


def test_too_large_is_asked_about_once_more(session: Session) -> None:
    session.max_bytes = 3
    limits = header_of(session.ask("infer", BODY, UNTIL, 0.0))
    assert limits["kind"] == "ping"
    session.sent()
    assert header_of(session.received(pong(limits, 1000), 0.5))["kind"] == "infer"


def test_too_large_is_refused_when_nobody_answers_soon(session: Session) -> None:
    session.max_bytes = 3
    session.ask("infer", BODY, UNTIL, 0.0)
    assert session.sent() == Wait(LIMITS_S)
    pause = session.lost(0.2)
    assert isinstance(pause, Pause)
    session.wake(pause.until)
    outcome = session.wake(LIMITS_S)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, errors.MessageTooLarge)


def test_an_answer_to_another_request_is_not_taken(
    session: Session, caplog: pytest.LogCaptureFixture
) -> None:
    header = asked(session)
    foreign = {**header, "id": (b"d" * 16, 0)}
    assert session.received(reply(foreign), 1.0) == Pause(1.0)
    assert "another request" in caplog.text


def test_an_answer_to_the_limits_is_none_to_the_request(session: Session) -> None:
    header = asked(session)
    session.lost(1.0)
    session.wake(1.0)
    session.sent()
    assert isinstance(session.received(reply(header), 2.0), Pause)


@pytest.mark.parametrize("kind", ["infer", "metadata", "ping", "reset"])
def test_a_broker_that_stops_is_waited_for(session: Session, kind: str) -> None:
    header = header_of(session.ask(kind, [], UNTIL, 0.0))
    session.sent()
    draining = errors.Draining("stopping")
    draining.retry_after_s = 0.25
    pause = session.received(fails(header, draining), 1.0)
    assert pause == Pause(1.25, "stopping")
    assert header_of(session.wake(1.25))["id"] == header["id"]


def test_a_broker_that_never_comes_back_is_told_at_the_deadline(session: Session) -> None:
    header = asked(session)
    pause = session.received(fails(header, errors.Draining("stopping")), UNTIL - 0.1)
    assert pause == Pause(UNTIL, "stopping")
    outcome = session.wake(UNTIL)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, errors.Draining)


@pytest.mark.parametrize("error", [errors.NoWorker("none"), errors.WorkerLoading("loading")])
def test_metadata_wait_for_a_worker(session: Session, error: errors.PolicyError) -> None:
    header = header_of(session.ask("metadata", [], UNTIL, 0.0))
    session.sent()
    assert session.received(fails(header, error), 1.0) == Pause(1.0 + NOT_YET_S, str(error))
    assert header_of(session.wake(1.0 + NOT_YET_S))["kind"] == "metadata"


def test_the_broker_knows_best_when_an_infer_found_no_worker(session: Session) -> None:
    header = asked(session)
    outcome = session.received(fails(header, errors.NoWorker("none")), 1.0)
    assert isinstance(outcome, Failed)
    assert outcome.is_clean


def test_the_deadline_of_what_was_sent(session: Session) -> None:
    asked(session)
    outcome = session.wake(UNTIL)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, errors.DeadlineExceeded)
    assert not outcome.is_unsent
    assert not outcome.is_clean


def test_the_deadline_of_what_could_not_be_sent(session: Session) -> None:
    session.ask("infer", BODY, UNTIL, 0.0)
    outcome = session.wake(UNTIL)
    assert isinstance(outcome, Failed)
    assert outcome.is_unsent


def test_a_deadline_that_has_passed_sends_nothing(session: Session) -> None:
    outcome = session.ask("infer", BODY, 1.0, 2.0)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, errors.DeadlineExceeded)


def test_what_is_no_header(session: Session) -> None:
    asked(session)
    outcome = session.received([zmq.Frame(b"\xc1")], 1.0)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, errors.ProtocolError)
    assert not outcome.is_clean


def test_a_reply_of_another_kind(session: Session) -> None:
    header = asked(session)
    outcome = session.received(reply(header, "pong"), 1.0)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, errors.ProtocolError)


def test_an_error_about_another_request_says_nothing_of_limits(session: Session) -> None:
    header = asked(session)
    session.lost(1.0)
    session.wake(1.0)
    session.sent()
    assert isinstance(session.received(fails(header, errors.Overloaded("full")), 2.0), Pause)


def test_silence_after_a_restart_is_not_told_as_the_old_brokers_end(session: Session) -> None:
    header = asked(session)
    session.received(fails(header, errors.Draining("stopping")), 1.0)
    session.wake(2.0)
    session.sent()
    outcome = session.wake(UNTIL)
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, errors.DeadlineExceeded)


def answered(session: Session, **fields: Any) -> Header:
    """Ask and be answered; returns what was asked."""
    header = asked(session)
    assert isinstance(session.received(reply(header, **fields), 0.1), Done)
    return header


def test_the_version_that_answered_is_told_with_the_next_request(session: Session) -> None:
    assert "version" not in answered(session, version="aloha@2")
    assert answered(session, version="aloha@3")["version"] == "aloha@2"
    assert answered(session)["version"] == "aloha@3"
    assert asked(session)["version"] == "aloha@3"  # who asks for a full name is told none


def test_another_episode_begins_without_a_version(session: Session) -> None:
    answered(session, version="aloha@2")
    session.fields["session"] = "another"
    assert "version" not in asked(session)


def test_who_comes_back_to_an_episode_tells_its_version(session: Session) -> None:
    for number in range(EPISODES + 1):
        session.fields["session"] = f"s{number}"
        answered(session, version=f"aloha@{number}")
    for number in (1, EPISODES):
        session.fields["session"] = f"s{number}"
        assert asked(session)["version"] == f"aloha@{number}"
    session.fields["session"] = "s0"  # answered longest ago
    assert "version" not in asked(session)


def test_a_reset_forgets_the_version(session: Session) -> None:
    answered(session, version="aloha@2")
    header = header_of(session.ask("reset", [], UNTIL, 1.0))
    session.sent()
    session.received(reply(header, "pong"), 1.1)
    assert "version" not in asked(session)


def test_an_error_does_not_forget_the_version(session: Session) -> None:
    answered(session, version="aloha@2")
    header = asked(session)
    session.received(fails(header, errors.Overloaded("later")), 1.0)
    assert asked(session)["version"] == "aloha@2"
