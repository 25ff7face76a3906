"""A client with a list of brokers: which one its session asks, and what becomes of bad entries."""

from __future__ import annotations

import socket as sockets
from random import Random
from typing import Any

import pytest
import zmq

from client import ZmqPolicyClient, errors
from client.arguments import MAX_BROKERS, endpoints
from client.body import encode_body
from client.route import RETURN_S, TRY_S, Route
from client.session import Action, Done, Pause, Send, Session, Wait
from client.wire import FROM_CLIENT, Header, decode_header, encode_header
from tests.client.scripted_broker import ScriptedBroker

UNTIL = 100.0


def session_of(count: int) -> Session:
    return Session(b"c" * 16, {"v": 1, "policy": "arm"}, route=Route(count, Random(1)))


def header_of(action: Action) -> Header:
    assert isinstance(action, Send), action
    return decode_header(bytes(action.frames[0]), FROM_CLIENT)


def reply(header: Header, kind: str = "result", **fields: Any) -> list[zmq.Frame]:
    content = {"v": 1, "kind": kind, "id": header["id"], **fields}
    return [zmq.Frame(encode_header(content)), zmq.Frame(b"\x80")]


def pong(header: Header, ready: int = 1) -> list[zmq.Frame]:
    (body,) = encode_body({"max_bytes": 1000, "policies": {"arm": {"ready": ready}}})
    return [reply(header, "pong")[0], zmq.Frame(bytes(body))]


def asked(session: Session, now: float = 0.0) -> Header:
    header = header_of(session.ask("infer", [b"body"], UNTIL, now))
    assert session.sent() == Wait(UNTIL, may_be_long=True)
    return header


def tried(session: Session, now: float, **workers: int) -> Action:
    """A pause has ended, and the broker that is tried says what it takes."""
    limits = header_of(session.wake(now))
    assert limits["kind"] == "ping"
    session.sent()
    return session.received(pong(limits, **workers), now)


def moved(session: Session, now: float = 1.0) -> None:
    """The first broker was lost in a call, and the second has answered it."""
    header = asked(session, now)
    session.lost(now)
    again = header_of(tried(session, now))
    session.sent()
    assert isinstance(session.received(reply(again), now), Done)
    assert (session.route.at, again["id"]) == (1, header["id"])


def test_a_lost_broker_costs_no_pause_and_no_new_id() -> None:
    session = session_of(2)
    header = asked(session)
    assert session.lost(1.0) == Pause(1.0)
    assert session.route.at == 1
    again = header_of(tried(session, 1.0))
    assert (again["kind"], again["id"]) == ("infer", header["id"])


def test_a_draining_broker_sends_on_at_once() -> None:
    session = session_of(2)
    header = asked(session)
    error = errors.Draining("stopping")
    error.retry_after_s = 5.0
    action = session.received(reply(header, "error", **errors.to_wire(error))[:1], 1.0)
    assert isinstance(action, Pause)
    assert action.until == 1.0
    assert session.route.at == 1


def test_where_all_are_draining_it_waits_for_one_to_be_back() -> None:
    session = session_of(2)
    header = asked(session)
    error = errors.Draining("stopping")
    error.retry_after_s = 5.0
    session.received(reply(header, "error", **errors.to_wire(error))[:1], 1.0)
    again = header_of(tried(session, 1.0))
    session.sent()
    action = session.received(reply(again, "error", **errors.to_wire(error))[:1], 2.0)
    assert isinstance(action, Pause)
    assert action.until == 7.0


def test_a_broker_that_does_not_answer_is_given_up_after_one_bounded_wait() -> None:
    session = session_of(2)
    asked(session)
    session.lost(1.0)
    session.wake(1.0)
    assert session.sent() == Wait(1.0 + TRY_S)
    assert session.wake(1.0 + TRY_S) == Pause(1.0 + TRY_S + 0.0)
    assert session.route.at == 0


def test_one_broker_is_given_all_the_time_as_ever() -> None:
    session = session_of(1)
    action = session.ask("infer", [b"body"], UNTIL, 0.0)
    assert isinstance(action, Send)
    assert action.until == UNTIL


def test_a_broker_without_a_ready_worker_is_passed_over_while_others_are_untried() -> None:
    session = session_of(3)
    header = asked(session)
    session.lost(1.0)
    assert tried(session, 1.0, ready=0) == Pause(1.0)
    assert session.route.at == 2
    # And where nobody has one, it waits at the last for one to come.
    again = header_of(tried(session, 1.0, ready=0))
    assert (again["kind"], again["id"]) == ("infer", header["id"])


def test_it_goes_back_to_the_first_at_a_moment_of_its_own() -> None:
    moments = set()
    for seed in range(20):
        route = Route(2, Random(seed))
        route.advance()
        route.sees_first(True, 0.0)
        first = next(now for now in range(10_000) if route.begin(now / 1e3))
        assert first <= RETURN_S * 1e3
        moments.add(first)
    assert len(moments) > 15


def test_it_does_not_go_back_to_a_broker_that_is_gone_again() -> None:
    session = session_of(2)
    moved(session)
    session.route.sees_first(True, 2.0)
    session.route.sees_first(False, 3.0)
    asked(session, 50.0)
    assert session.route.at == 1


def test_back_at_the_first_it_asks_whether_it_serves_and_goes_on_if_not() -> None:
    session = session_of(2)
    moved(session)
    session.route.sees_first(True, 2.0)
    limits = header_of(session.ask("infer", [b"body"], UNTIL, 50.0))
    assert (limits["kind"], session.route.at) == ("ping", 0)
    session.sent()
    assert session.received(pong(limits, ready=0), 50.0) == Pause(50.0)
    assert session.route.at == 1


def test_a_broker_that_left_a_call_unanswered_must_answer_a_ping_before_the_next() -> None:
    session = session_of(2)
    asked(session)
    assert session.wake(UNTIL) is not None  # the deadline has passed without a word
    limits = header_of(session.ask("infer", [b"body"], 2 * UNTIL, UNTIL))
    assert (limits["kind"], session.route.at) == ("ping", 0)
    session.sent()
    assert session.wake(UNTIL + TRY_S) == Pause(UNTIL + TRY_S)
    assert session.route.at == 1


def test_a_list_is_one_endpoint_each_and_one_host_is_as_ever(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert endpoints("a", 8000) == ["tcp://a:8000"]
    assert endpoints(["a", "b:8001"], 8000) == ["tcp://a:8000", "tcp://b:8001"]
    assert endpoints("a, tcp://b:9", "8000") == ["tcp://a:8000", "tcp://b:9"]
    assert endpoints(["::1", "[::1]:9"], 8000) == ["tcp://[::1]:8000", "tcp://[::1]:9"]
    assert not caplog.records
    assert endpoints(("a", "a:8000"), 8000) == ["tcp://a:8000"]
    assert "twice" in caplog.text


@pytest.mark.parametrize("given", ["a:8001", [], ["a", ""], ["a", "b:port"], ["a", 3], "a,,b"])
def test_a_bad_host_is_named(given: Any) -> None:
    with pytest.raises(ValueError, match="host|port"):
        endpoints(given, 8000)
    with pytest.raises(ValueError, match="1 to 16"):
        endpoints([f"h{number}" for number in range(MAX_BROKERS + 1)], 8000)


def test_dead_foreign_and_duplicate_entries_are_passed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with sockets.create_server(("127.0.0.1", 0)) as silent, ScriptedBroker() as broker:
        foreign = silent.getsockname()[1]
        hosts = ["127.0.0.1:9", f"127.0.0.1:{foreign}", f"127.0.0.1:{broker.port}"]
        with ZmqPolicyClient([*hosts, hosts[0]], timeout_s=30.0) as client:
            assert client.ping()["policies"] == {}
    assert "no broker answers at tcp://127.0.0.1:9" in caplog.text
    assert f"127.0.0.1:{foreign} accepts connections and stays silent" in caplog.text
    assert "twice" in caplog.text


def test_if_nobody_is_there_the_error_names_all() -> None:
    with pytest.raises(errors.BrokerUnreachable, match=r"127.0.0.1:9:.*127.0.0.1:7:"):
        ZmqPolicyClient(["127.0.0.1:9", "127.0.0.1:7"], connect_timeout_s=0.3)
