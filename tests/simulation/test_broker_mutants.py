"""Bugs planted in the broker's core: each must be caught, or the simulation proves nothing."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

import pytest

from broker import leases
from broker.accounts import Accounts
from broker.core import Core
from broker.events import Payload, RobotMessage, ToRobot, WorkerMessage
from broker.fairness import Fairness
from broker.inflight import InFlight
from broker.leases import Leases
from broker.names import Names
from broker.outbox import Outbox
from broker.registry import Registry
from broker.requests import Request
from broker.robots import Robots
from broker.shares import Lane, Shares
from broker.states import WorkerState
from broker.versions import Episode, Key, Record, Versions
from broker.workers import Lease, Worker
from client.errors import PolicyError
from client.wire import Header, RequestId
from tests.simulation.mutant import Mutant, Patch, check_is_caught


def _expires_in_silence(patch: Patch) -> None:
    def fail(self: InFlight, request: Request, error: PolicyError, cause: str = "fail") -> None:
        if cause == "expire":
            self._settle(request, cause)
        else:
            original(self, request, error, cause)

    original = InFlight.fail
    patch.setattr(InFlight, "fail", fail)


def _answers_twice(patch: Patch) -> None:
    def answer(self: InFlight, request: Request, header: Header, payload: Payload) -> None:
        original(self, request, header, payload)
        self._outbox.commands.append(ToRobot(request.envelope, header, payload))

    original = InFlight.answer
    patch.setattr(InFlight, "answer", answer)


def _tries_for_ever(patch: Patch) -> None:
    patch.setattr(leases, "MAX_ATTEMPTS", 1_000)


def _computes_the_expired(patch: Patch) -> None:
    def expire(self: Leases, now: float) -> None:
        self.dispatch(now)
        original(self, now)

    original = Leases.expire
    patch.setattr(Leases, "expire", expire)


def _answers_the_first_to_ask(patch: Patch) -> None:
    def infer(self: Robots, message: RobotMessage, now: float) -> None:
        known = self._inflight.requests.get(message.header.get("id", RequestId(b"", 0)))
        envelope = known.envelope if known is not None else ()
        original(self, message, now)
        if known is not None:
            known.envelope = envelope

    original = Robots._infer
    patch.setattr(Robots, "_infer", infer)


def _mixes_up_robots(patch: Patch) -> None:
    def answer(self: InFlight, request: Request, header: Header, payload: Payload) -> None:
        others = [each for each in self.requests.values() if each is not request]
        envelope = others[0].envelope if others else request.envelope
        request.envelope = envelope
        original(self, request, header, payload)

    original = InFlight.answer
    patch.setattr(InFlight, "answer", answer)


def _mixes_up_payloads(patch: Patch) -> None:
    last: list[Payload] = []

    def answer(self: InFlight, request: Request, header: Header, payload: Payload) -> None:
        last.append(payload)
        original(self, request, header, last[-2] if len(last) % 7 == 0 else payload)

    original = InFlight.answer
    patch.setattr(InFlight, "answer", answer)


def _believes_any_worker(patch: Patch) -> None:
    def end(self: Leases, worker: Worker, message: WorkerMessage, now: float) -> Lease | None:
        key = message.header["id"], message.header["attempt"]
        holders = [each for each in self._pool.by_id.values() if key in each.in_hand]
        return original(self, holders[0] if holders else worker, message, now)

    original = Leases._end
    patch.setattr(Leases, "_end", end)


def _believes_any_epoch(patch: Patch) -> None:
    def receive(self: Registry, message: WorkerMessage, now: float) -> None:
        message.header["epoch"] = self._outbox.epoch
        original(self, message, now)

    original = Registry.receive
    patch.setattr(Registry, "receive", receive)


def _believes_any_attempt(patch: Patch) -> None:
    def end(self: Leases, worker: Worker, message: WorkerMessage, now: float) -> Lease | None:
        attempts = [attempt for id, attempt in worker.in_hand if id == message.header["id"]]
        if attempts:
            message.header["attempt"] = attempts[0]
        return original(self, worker, message, now)

    original = Leases._end
    patch.setattr(Leases, "_end", end)


def _forgets_overdue_work(patch: Patch) -> None:
    def overrun(self: Leases, lease: Lease, now: float) -> None:
        original(self, lease, now)
        if lease.overdue:
            self._release(lease)
            lease.worker.state = WorkerState.READY
            lease.worker._enlist()

    original = Leases._overrun
    patch.setattr(Leases, "_overrun", overrun)


def _parks_work(patch: Patch) -> None:
    def free_slots(self: Worker) -> int:
        return self.slots + 1 - len(self.in_hand) if self.state is WorkerState.READY else 0

    def enlist(self: Worker) -> None:
        if self.free_slots > 0:
            self.free[self.id] = self
        else:
            self.free.pop(self.id, None)

    patch.setattr(Worker, "free_slots", property(free_slots))
    patch.setattr(Worker, "_enlist", enlist)


def _believes_early_heartbeats(patch: Patch) -> None:
    def not_in_hand(self: Worker, beat: int, ids: Iterable[tuple[RequestId, int]]) -> list[Lease]:
        held = set(ids)
        return [lease for key, lease in self.in_hand.items() if key not in held]

    patch.setattr(Worker, "not_in_hand", not_in_hand)


def _admits_all(patch: Patch) -> None:
    patch.setattr(Accounts, "refusal", lambda self, robot, requests, size: "")


def _loses_count_of_bytes(patch: Patch) -> None:
    def give_back(self: Accounts, robot: Hashable, size: int) -> None:
        original(self, robot, size)
        self.total.bytes += 1

    original = Accounts.give_back
    patch.setattr(Accounts, "give_back", give_back)


def _keeps_lease_ends(patch: Patch) -> None:
    def release(self: Leases, lease: Lease) -> None:
        lease.worker.let_go(lease)
        lease.request.holders -= 1

    patch.setattr(Leases, "_release", release)


def _drops_the_requests_of_the_dead(patch: Patch) -> None:
    patch.setattr(Leases, "_retry", lambda self, request, now: None)


def _never_trusts_again(patch: Patch) -> None:
    patch.setattr(Leases, "trust_again", lambda self, worker: None)


def _never_asks_who(patch: Patch) -> None:
    def tell(self: Outbox, worker: bytes, kind: str, payload: Payload = (), **fields: Any) -> None:
        if kind != "who":
            original(self, worker, kind, payload, **fields)

    original = Outbox.tell
    patch.setattr(Outbox, "tell", tell)


def _keeps_the_slots_of_late_answers(patch: Patch) -> None:
    def release(self: Leases, lease: Lease) -> None:
        if not lease.request.is_final:
            original(self, lease)

    original = Leases._release
    patch.setattr(Leases, "_release", release)


def _starves_a_lane(patch: Patch) -> None:
    def first(self: Shares, lanes: Iterable[Lane]) -> Lane | None:
        others = list(lanes)
        live = [lane for lane in others if not lane.is_evaluation] or others
        return max(live, key=lambda lane: lane.team, default=None)

    patch.setattr(Shares, "first", first)


def _forgets_evaluation(patch: Patch) -> None:
    def first(self: Shares, lanes: Iterable[Lane]) -> Lane | None:
        waiting = list(lanes)
        live = [lane for lane in waiting if not lane.is_evaluation]
        return original(self, live or waiting)

    original = Shares.first
    patch.setattr(Shares, "first", first)


def _loses_count_of_a_lane(patch: Patch) -> None:
    patch.setattr(Fairness, "give_back", lambda self, lane: None)


def _oversleeps(patch: Patch) -> None:
    patch.setattr(Core, "wake_at", lambda self: self.registry.beat_at + 1.0)


def _never_sleeps(patch: Patch) -> None:
    patch.setattr(Core, "wake_at", lambda self: 0.0)


def _forgets_an_episodes_version(patch: Patch) -> None:
    def before(self: Versions, record: Record, episode: Episode | None, *rest: Any) -> str | None:
        return original(self, record, None, *rest)

    original = Versions._before
    patch.setattr(Versions, "_before", before)


def _takes_no_clients_word_for_a_version(patch: Patch) -> None:
    def choose(self: Versions, base: str, key: Key, told: str | None, *rest: Any) -> str:
        return original(self, base, key, None, *rest)

    original = Versions.choose
    patch.setattr(Versions, "choose", choose)


def _waits_for_a_version_that_is_gone(patch: Patch) -> None:
    patch.setattr(Names, "settle", lambda self, policy, now: None)


MUTANTS = [
    Mutant("expires in silence", {1}, _expires_in_silence),
    Mutant("answers twice", {1}, _answers_twice),
    Mutant("tries for ever", {1}, _tries_for_ever, 11),
    Mutant("computes the expired", {1}, _computes_the_expired, 70),
    Mutant("oversleeps", {1}, _oversleeps),
    Mutant("answers the first to ask", {2}, _answers_the_first_to_ask),
    Mutant("mixes up robots", {2}, _mixes_up_robots),
    Mutant("mixes up payloads", {2}, _mixes_up_payloads),
    Mutant("believes any worker", {1, 2}, _believes_any_worker, 51),
    Mutant("believes any epoch", {2, 3}, _believes_any_epoch, 10),
    Mutant("believes any attempt", {1, 2}, _believes_any_attempt),
    Mutant("forgets overdue work", {3, 4}, _forgets_overdue_work),
    Mutant("parks work", {3}, _parks_work),
    Mutant("believes early heartbeats", {3}, _believes_early_heartbeats),
    Mutant("admits all", {4}, _admits_all),
    Mutant("loses count of bytes", {4}, _loses_count_of_bytes),
    Mutant("keeps lease ends", {4}, _keeps_lease_ends),
    Mutant("drops the requests of the dead", {4}, _drops_the_requests_of_the_dead),
    Mutant("never trusts again", {5}, _never_trusts_again, 11),
    Mutant("never asks who", {5}, _never_asks_who),
    Mutant("keeps the slots of late answers", {4, 5}, _keeps_the_slots_of_late_answers),
    Mutant("starves a lane", {6}, _starves_a_lane),
    Mutant("forgets evaluation", {6}, _forgets_evaluation),
    Mutant("loses count of a lane", {4}, _loses_count_of_a_lane),
    Mutant("never sleeps", {5}, _never_sleeps),
    Mutant("forgets an episode's version", {7}, _forgets_an_episodes_version),
    Mutant("takes no client's word for a version", {7}, _takes_no_clients_word_for_a_version, 14),
    Mutant("waits for a version that is gone", {5}, _waits_for_a_version_that_is_gone, 13),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_planted_bug_is_caught(mutant: Mutant, monkeypatch: Patch) -> None:
    check_is_caught(mutant, monkeypatch)
