"""Credits of a worker with several brokers, and its sessions by lists of events."""

from __future__ import annotations

from typing import Any

import pytest

from client import errors
from client.wire import RequestId
from worker.addresses import MAX_BROKERS, broker_list
from worker.credits import RECALL_S, Credits
from worker.errors import SettingsError
from worker.events import (
    DRAIN_S,
    REFUSED,
    STOPPED,
    Answered,
    Disconnected,
    Exit,
    Introduction,
    PolicyReady,
    Received,
    Renew,
    Run,
    Send,
    Stop,
    Tick,
)
from worker.sessions import Directed, Sessions

ABOUT = Introduction(bytes(16), "echo", 1, 0, "d", [b"\x80"])


def open_credits(slots: int) -> Credits:
    """Of two brokers at which the worker is ready; the first has all of them."""
    credits = Credits(slots, 2)
    for share in credits.shares:
        share.is_open = True
    assert credits.settle(0.0) == [0]
    return credits


def granted(credits: Credits) -> list[int]:
    return [share.granted for share in credits.shares]


def test_what_nobody_asks_for_is_the_first_brokers() -> None:
    assert granted(open_credits(4)) == [4, 0]


def test_a_credit_moves_only_once_its_return_is_acknowledged() -> None:
    credits = open_credits(1)
    first, second = credits.shares
    second.waiting = 1
    assert credits.settle(1.0) == [0]
    assert (granted(credits), credits.free) == ([0, 0], 0)
    first.acknowledged(first.number - 1)  # of something that it was told before
    assert credits.settle(1.1) == []
    first.acknowledged(first.number)
    assert credits.settle(1.2) == [1]
    assert granted(credits) == [0, 1]


def test_what_came_before_the_acknowledgement_is_counted_until_it_is_answered() -> None:
    credits = open_credits(1)
    first, second = credits.shares
    second.waiting = 1
    credits.settle(1.0)
    first.took()  # it was on its way
    first.acknowledged(first.number)
    assert credits.settle(1.1) == []
    first.answered(is_orphan=False)
    assert credits.settle(1.2) == [1]


def test_what_is_in_hand_of_a_lost_broker_is_counted_until_it_is_computed() -> None:
    credits = open_credits(2)
    first, second = credits.shares
    first.took()
    second.waiting = 2
    first.end()
    assert credits.settle(1.0) == [1]
    assert granted(credits) == [0, 1]
    first.answered(is_orphan=True)
    assert credits.settle(1.1) == [1]
    assert granted(credits) == [0, 2]


def test_two_busy_brokers_share_and_take_turns_where_there_is_one_slot() -> None:
    credits = open_credits(4)
    for share in credits.shares:
        share.waiting = 9
    credits.settle(1.0)
    credits.shares[0].acknowledged(credits.shares[0].number)
    credits.settle(1.0)
    assert granted(credits) == [2, 2]
    assert credits.settle(1.1) == []
    credits = open_credits(1)
    first, second = credits.shares
    first.waiting = second.waiting = 9
    turns = []
    first.took()
    for now in range(6):
        giver = next(share for share in credits.shares if share.held)
        assert credits.settle(now) == [credits.shares.index(giver)]
        giver.acknowledged(giver.number)
        giver.answered(is_orphan=False)
        (at,) = credits.settle(now)
        turns.append(at)
        assert credits.settle(now) == []  # not before it was of use
        credits.shares[at].took()
    assert turns == [1, 0, 1, 0, 1, 0]


def test_a_broker_that_acknowledges_nothing_is_overdue() -> None:
    credits = open_credits(1)
    assert credits.wake_at() == float("inf")
    credits.shares[1].waiting = 1
    credits.settle(1.0)
    assert credits.wake_at() == 1.0 + RECALL_S
    assert credits.overdue(1.0 + RECALL_S / 2) == []
    assert credits.overdue(1.0 + RECALL_S) == [0]


# The sessions.


def welcome(epoch: int, **fields: Any) -> Received:
    return Received({"v": 1, "kind": "welcome", "epoch": epoch, **fields})


def infer(epoch: int, number: int, **fields: Any) -> Received:
    id = RequestId(b"c", number)
    header = {"v": 1, "kind": "infer", "id": id, "attempt": 1, "epoch": epoch, **fields}
    return Received(header, [b"\x80"])


def started() -> Sessions:
    """A worker with one slot that is ready at two brokers, of the epochs 1 and 2."""
    sessions = Sessions(ABOUT, ["a", "b"], 0.0)
    sessions.handle(PolicyReady(ABOUT, 5.0), 0.0)
    sessions.handle(welcome(1), 0.0, 0)
    sessions.handle(welcome(2), 0.0, 1)
    return sessions


def said(commands: list[Directed]) -> list[tuple[int, str, Any]]:
    return [
        (at, command.header["kind"], command.header.get("slots"))
        for at, command in commands
        if isinstance(command, Send)
    ]


def run_of(commands: list[Directed]) -> Run:
    (run,) = [command for _, command in commands if isinstance(command, Run)]
    return run


def test_only_the_first_is_told_of_the_slot() -> None:
    sessions = Sessions(ABOUT, ["a", "b"], 0.0)
    sessions.handle(PolicyReady(ABOUT, 5.0), 0.0)
    assert said(sessions.handle(welcome(1), 0.0, 0)) == [(0, "ready", 0), (0, "heartbeat", 1)]
    assert said(sessions.handle(welcome(2), 0.0, 1)) == [(1, "ready", 0)]


def test_where_it_was_not_welcome_yet_a_loss_needs_no_new_connection() -> None:
    sessions = Sessions(ABOUT, ["a", "b"], 0.0)
    assert sessions.handle(Disconnected(), 0.1, 1) == []


def test_an_answer_goes_to_who_gave_the_request() -> None:
    sessions = started()
    run = run_of(sessions.handle(infer(1, 7), 0.1, 0))
    answer = Answered(run.request, {"kind": "result"})
    assert said(sessions.handle(answer, 0.2)) == [(0, "result", None)]
    assert sessions.is_idle


def test_a_lost_broker_gets_no_answer_and_its_slot_goes_to_the_other() -> None:
    sessions = started()
    run = run_of(sessions.handle(infer(1, 7), 0.1, 0))
    commands = sessions.handle(Disconnected(), 0.2, 0)
    assert [at for at, command in commands if isinstance(command, Renew)] == [0]
    assert said(commands) == []  # what it gave is still in hand
    answer = Answered(run.request, {"kind": "result"})
    assert said(sessions.handle(answer, 0.3)) == [(1, "heartbeat", 1)]


@pytest.mark.parametrize("again", [welcome(9), welcome(1)])
def test_a_broker_that_is_another_or_has_forgotten_is_registered_with_anew(
    again: Received,
) -> None:
    sessions = started()
    sessions.handle(infer(1, 7), 0.1, 0)
    commands = sessions.handle(again, 0.2, 0)
    assert any(isinstance(command, Renew) for _, command in commands)
    sessions = started()
    sessions.handle(infer(1, 7), 0.1, 0)
    commands = sessions.handle(welcome(1, grant=1), 0.2, 0)
    assert not any(isinstance(command, Renew) for _, command in commands)


def test_a_request_of_a_broker_that_is_no_more_is_not_taken() -> None:
    sessions = started()
    commands = sessions.handle(infer(77, 7), 0.1, 0)
    assert not any(isinstance(command, Run) for _, command in commands)
    assert sessions.is_idle


def test_a_worker_that_one_broker_refuses_goes_on_with_the_other() -> None:
    sessions = started()
    error = errors.to_wire(errors.WorkerRefused("no"))
    refused = Received({"v": 1, "kind": "error", **error})
    run = run_of(sessions.handle(infer(1, 7), 0.1, 0))
    commands = sessions.handle(refused, 0.2, 0)
    assert not any(isinstance(command, Exit) for _, command in commands)
    answered = said(sessions.handle(Answered(run.request, {"kind": "result"}), 0.3))
    assert answered == [(1, "heartbeat", 1)]
    commands = sessions.handle(refused, 0.4, 1)
    assert [command.code for _, command in commands if isinstance(command, Exit)] == [REFUSED]


def test_told_to_stop_it_ends_once_all_brokers_were_told() -> None:
    sessions = started()
    sessions.handle(Stop(), 1.0)
    commands = sessions.handle(Stop(), 1.1)
    assert [(at, kind) for at, kind, _ in said(commands)] == [(0, "goodbye"), (1, "goodbye")]
    assert [command.code for _, command in commands if isinstance(command, Exit)] == [STOPPED]


def test_retired_by_one_broker_it_leaves_all() -> None:
    sessions = started()
    retire = Received({"v": 1, "kind": "retire", "epoch": 1})
    commands = sessions.handle(retire, 1.0, 0)
    assert [session.state for session in sessions.all] == ["draining", "draining"]
    assert {at for at, kind, _ in said(commands) if kind == "heartbeat"} == {0, 1}
    again = sessions.handle(Received({"v": 1, "kind": "retire", "epoch": 2}), 1.1, 1)
    assert not any(isinstance(command, Exit) for _, command in again)


def test_retired_by_one_broker_it_finishes_what_another_gave() -> None:
    sessions = started()
    run = run_of(sessions.handle(infer(1, 7), 0.1, 0))
    commands = sessions.handle(Received({"v": 1, "kind": "retire", "epoch": 2}), 1.0, 1)
    commands += sessions.handle(Tick(), 1.0 + 2 * DRAIN_S)
    assert not any(kind == "goodbye" for at, kind, _ in said(commands) if at == 0)
    answered = said(sessions.handle(Answered(run.request, {"kind": "result"}), 3.0))
    assert (0, "result") in [(at, kind) for at, kind, _ in answered]


def test_brokers_are_given_as_a_list_or_as_one_text() -> None:
    assert broker_list("tcp://a:1") == ["tcp://a:1"]
    assert broker_list("tcp://a:1, tcp://b:1") == ["tcp://a:1", "tcp://b:1"]
    assert broker_list(["tcp://a:1", "tcp://b:1", "tcp://a:1"]) == ["tcp://a:1", "tcp://b:1"]


@pytest.mark.parametrize(
    "given", ["", "a,,b", [], [3], 8001, ["a"] * 0, [f"h{n}" for n in range(99)]]
)
def test_a_bad_list_is_named(given: object) -> None:
    with pytest.raises(SettingsError, match="broker="):
        broker_list(given)
    assert MAX_BROKERS < 99
