"""Scheduling decisions by themselves."""

from __future__ import annotations

from typing import Any

import pytest

from broker.dispatch import UNTIMED_LEASE_S, first_to_finish, lease_s, predicted_wait_s
from broker.states import WorkerState
from broker.workers import Lease, Worker
from client.wire import RequestId


def worker(name: str, *, held: int = 0, slots: int = 1, mean_s: float = 0.1, **more: Any) -> Worker:
    made = Worker(name.encode(), "p", "d", 50, (), heard_at=0.0)
    made.state, made.slots, made.mean_s = WorkerState.READY, slots, mean_s
    for field, value in more.items():
        setattr(made, field, value)
    for sequence in range(held):
        made.in_hand[RequestId(b"r", sequence), 1] = Lease.__new__(Lease)
    return made


def chosen(*workers: Worker) -> str:
    found = first_to_finish(workers)
    return found.id.decode() if found else "nobody"


def test_nobody_is_free() -> None:
    assert chosen() == "nobody"
    assert chosen(worker("full", held=1)) == "nobody"


@pytest.mark.parametrize(
    "state", [state for state in WorkerState if state is not WorkerState.READY]
)
def test_only_ready_workers_have_slots(state: WorkerState) -> None:
    assert chosen(worker("w", slots=4, state=state)) == "nobody"


def test_idle_workers_come_first_even_slow_ones() -> None:
    assert (
        chosen(worker("busy", held=1, slots=2, mean_s=0.01), worker("idle", mean_s=9.0)) == "idle"
    )


def test_of_the_idle_the_faster_one() -> None:
    assert chosen(worker("slow", mean_s=0.2), worker("fast", mean_s=0.1)) == "fast"


def test_of_the_busy_the_one_that_finishes_first() -> None:
    loaded = worker("loaded", held=2, slots=4, mean_s=0.1)
    slow = worker("slow", held=1, slots=4, mean_s=0.2)
    assert chosen(loaded, slow) == "loaded"
    assert chosen(worker("loaded", held=4, slots=9, mean_s=0.1), slow) == "slow"


def test_of_equals_the_one_that_rested_longest() -> None:
    assert chosen(worker("a", leased_at=2.0), worker("b", leased_at=1.0)) == "b"


def test_a_lease_is_four_times_the_slowest_recent_inference() -> None:
    fresh = worker("w")
    assert lease_s(fresh, shortest_s=0.25) == UNTIMED_LEASE_S
    fresh.expect(0.2)
    assert lease_s(fresh, shortest_s=0.25) == pytest.approx(0.8)
    for seconds in (0.1, 0.3, 0.1):
        fresh.took(seconds)
    assert lease_s(fresh, shortest_s=0.25) == pytest.approx(1.2)
    for _ in range(64):
        fresh.took(0.001)
    assert lease_s(fresh, shortest_s=0.25) == 0.25


def test_a_workers_own_word_counts_until_there_is_evidence() -> None:
    fresh = worker("w")
    fresh.expect(0.5)
    assert fresh.mean_s == 0.5
    fresh.took(0.1)
    assert fresh.mean_s == pytest.approx(0.1)
    fresh.expect(0.5)
    fresh.took(0.2)
    assert 0.1 < fresh.mean_s < 0.2


def test_predicted_waits() -> None:
    two = worker("a", slots=2, mean_s=0.1)
    one = worker("b", mean_s=0.2)
    assert predicted_wait_s(10, [two]) == pytest.approx(10 / 20)
    assert predicted_wait_s(10, [two, one]) == pytest.approx(10 / 25)
    assert predicted_wait_s(0, [one]) == 0.0
    assert predicted_wait_s(10, []) == 0.0
    one.state = WorkerState.SUSPECT
    assert predicted_wait_s(10, [one]) == 0.0
    assert predicted_wait_s(10, [worker("instant", mean_s=0.0)]) == 0.0
