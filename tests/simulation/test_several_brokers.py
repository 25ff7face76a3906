"""Histories with several brokers, and bugs planted in what makes them one: each must be caught."""

from __future__ import annotations

from dataclasses import replace

import pytest

from broker.leases import Leases
from broker.registry import Registry
from broker.workers import Worker
from client.route import Route
from client.session import Action, Session
from client.wire import Header
from tests.simulation.client_robot import ClientRobot
from tests.simulation.generator import generate, has_several_brokers
from tests.simulation.mutant import Mutant, Patch
from tests.simulation.schedule import (
    Ask,
    Hang,
    Partition,
    Pause,
    Refuse,
    Restart,
    RobotSpec,
    Schedule,
    Setting,
    WorkerSpec,
)
from tests.simulation.shrink import failure
from tests.simulation.world import World
from worker.credits import Credits, Share
from worker.events import Payload, Received
from worker.session import Session as WorkerSession
from worker.sessions import SharedSession

_SEEDS = 1_500  # at most, until a mutant is caught; one in four has several brokers

_PAIR = Setting(workers=(WorkerSpec(),), robots=(RobotSpec(), RobotSpec()), brokers=2)


def _gives_every_broker_all_slots(patch: Patch) -> None:
    def hand_out(self: Credits) -> None:
        for share in self.shares:
            if share.is_open and share.granted < self._slots:
                share.change(self._slots - share.granted)

    patch.setattr(Credits, "_hand_out", hand_out)


def _takes_back_without_proof(patch: Patch) -> None:
    patch.setattr(Share, "reserved", property(lambda self: self.orphans + self.granted))


def _forgets_orphans(patch: Patch) -> None:
    patch.setattr(
        Share, "reserved", property(lambda self: max(self.ceiling, self.granted, self.held))
    )


def _does_not_count_what_is_in_hand(patch: Patch) -> None:
    reserved = property(lambda self: self.orphans + max(self.ceiling, self.granted))
    patch.setattr(Share, "reserved", reserved)


def _keeps_its_routing_id(patch: Patch) -> None:
    def renew(self: SharedSession, now: float) -> None:
        original(self, now)
        self._commands.pop()

    original = SharedSession._renew
    patch.setattr(SharedSession, "_renew", renew)


def _never_takes_back(patch: Patch) -> None:
    patch.setattr(Credits, "_take_back", lambda self, now: None)


def _waits_for_ever_for_an_acknowledgement(patch: Patch) -> None:
    patch.setattr(Credits, "overdue", lambda self, now: [])
    patch.setattr(Credits, "wake_at", lambda self: float("inf"))


def _answers_orphans(patch: Patch) -> None:
    def reply(self: SharedSession, request: Header, fields: Header, payload: Payload = ()) -> None:
        self.share.answered(request["registration"] != self._registration)
        WorkerSession._reply(self, request, {**fields}, payload)

    patch.setattr(SharedSession, "_reply", reply)


def _believes_a_broker_that_forgot(patch: Patch) -> None:
    def welcome(self: SharedSession, message: Received, now: float) -> None:
        message.header.setdefault("grant", self.share.number)
        original(self, message, now)

    original = SharedSession._welcome
    patch.setattr(SharedSession, "_welcome", welcome)


def _acknowledges_and_goes_on(patch: Patch) -> None:
    def regrant(self: Worker, slots: int, grant: int) -> bool:
        is_fewer = slots < self.slots
        self.slots, self.grant = max(slots, self.slots), grant
        self._enlist()
        return is_fewer

    patch.setattr(Worker, "regrant", regrant)


def _never_acknowledges(patch: Patch) -> None:
    def regrant(self: Registry, worker: Worker, header: Header) -> None:
        slots, grant = worker.slots, worker.grant
        original(self, worker, header)
        if worker.slots < slots:
            worker.slots, worker.grant = slots, grant
            worker._enlist()

    original = Registry._regrant
    patch.setattr(Registry, "_regrant", regrant)


def _asks_for_no_slots(patch: Patch) -> None:
    patch.setattr(Leases, "demand", lambda self, worker: {"grant": worker.grant, "waiting": 0})


def _changes_its_id_as_it_moves(patch: Patch) -> None:
    def lost(self: Session, now: float) -> Action:
        at = self.route.at
        action = original(self, now)
        if self.route.at != at:
            self._id = self._next_id()
        return action

    original = Session.lost
    patch.setattr(Session, "lost", lost)


def _never_moves(patch: Patch) -> None:
    patch.setattr(Route, "advance", lambda self: False)


def _asks_another_while_it_waits(patch: Patch) -> None:
    def try_until(self: Route, until: float, now: float) -> float:
        return min(until, now + 0.2) if self.is_several else until

    def sent(self: Session) -> Action:
        action = original(self)
        return action._replace(until=self._try_until)  # type: ignore[call-arg]

    def pause(self: Session, until: float, reason: str = "") -> Action:
        return self._ask_limits(until) if self.route.is_several else paused(self, until, reason)

    original, paused = Session.sent, Session._pause
    patch.setattr(Route, "try_until", try_until)
    patch.setattr(Session, "sent", sent)
    patch.setattr(Session, "_pause", pause)


MUTANTS = [
    Mutant("gives every broker all slots", {3}, _gives_every_broker_all_slots),
    Mutant("takes back without proof", {3}, _takes_back_without_proof),
    Mutant("forgets orphans", {3}, _forgets_orphans),
    Mutant("does not count what is in hand", {3}, _does_not_count_what_is_in_hand),
    Mutant("keeps its routing id", {1, 3, 4, 5}, _keeps_its_routing_id),
    Mutant("never takes back", {5}, _never_takes_back),
    Mutant("answers orphans", {1, 4}, _answers_orphans),
    Mutant("acknowledges and goes on", {3}, _acknowledges_and_goes_on),
    Mutant("never acknowledges", {3, 5}, _never_acknowledges),
    Mutant("asks for no slots", {5}, _asks_for_no_slots),
    Mutant("changes its id as it moves", {2}, _changes_its_id_as_it_moves),
    Mutant("asks another while it waits", {2}, _asks_another_while_it_waits),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_planted_bug_is_caught(mutant: Mutant, monkeypatch: Patch) -> None:
    mutant.plant(monkeypatch)
    for seed in filter(has_several_brokers, range(_SEEDS)):
        violation = failure(generate(seed))
        if violation is not None:
            break
    assert violation is not None
    assert violation.number in mutant.invariants, str(violation)


# What random histories hardly ever come to has one of its own.


def test_a_broker_that_has_forgotten_what_it_gave_gives_no_more(monkeypatch: Patch) -> None:
    steps = (
        Ask(at=0.9513, robot=1, deadline_s=1.5, size=0),
        Hang(at=0.9766, worker=0, seconds=1.909),
        Refuse(at=1.0093, worker=0, seconds=0.196),
        Ask(at=1.2274, robot=0, size=0),
    )
    schedule = Schedule(31791, _PAIR, steps)
    World(schedule).play()
    _believes_a_broker_that_forgot(monkeypatch)
    violation = failure(schedule)
    assert violation is not None
    assert violation.number == 3


def _answers(schedule: Schedule) -> int:
    return World(schedule).play().words["result"]


def test_a_worker_whose_credits_are_at_a_lost_broker_serves_the_other(monkeypatch: Patch) -> None:
    # The way to the first broker is cut without a word while its credits are out there.
    setting = replace(_PAIR, hang_up_s=9.0)
    steps = (Partition(0.5, ("w0",), 2.0), Ask(0.6, 1, deadline_s=1.5), Ask(2.4, 1))
    schedule = Schedule(1, setting, steps)
    answers = _answers(schedule)
    _waits_for_ever_for_an_acknowledgement(monkeypatch)
    assert _answers(schedule) == answers - 1


def test_a_broker_killed_costs_a_robot_that_knows_another_no_answer(monkeypatch: Patch) -> None:
    steps = (Ask(0.6, 0, deadline_s=1.0), Restart(0.61, 5.0))
    schedule = Schedule(1, _PAIR, steps)
    with_ask = _answers(schedule)
    _never_moves(monkeypatch)
    assert _answers(schedule) == with_ask - 1


@pytest.mark.parametrize("only_busy", [False, True])
def test_a_broker_that_hangs_costs_a_robot_that_knows_another_no_answer(
    monkeypatch: Patch, only_busy: bool
) -> None:
    # The first request finds it well, and leaves a connection to it.
    # The last one keeps the world from being healed before.
    asks = Ask(0.6, 0), Ask(0.8, 0, deadline_s=3.0), Ask(6.0, 1)
    steps = (*asks, Pause(0.8, 10.0, only_busy))
    schedule = Schedule(1, _PAIR, steps)
    with_ask = _answers(schedule)
    monkeypatch.setattr(ClientRobot, "_seems_to_hang", lambda self: False)
    assert _answers(schedule) == with_ask - 1
