"""How many workers: stories of demand over time, and what holds whatever the demand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.fleet.config import ScalingSettings
from scripts.fleet.scaling import Bounds, Demand, Memory, decide

SETTINGS = ScalingSettings(
    longest_wait_s=0.2, up_after_s=2.0, down_after_s=60.0, idle_s=300.0, cool_down_s=10.0
)
BUSY = Demand(waiting=4, wait_s=0.5, asked_s_ago=0.0, ready=1, slots=1, in_hand=1)
IDLE = Demand(asked_s_ago=400.0, ready=1, slots=1)


class Story:
    """A policy's size as time passes; new workers are ready at once."""

    def __init__(self, workers: int, least: int = 0, most: int = 8) -> None:
        self.now, self.workers = 1000.0, workers
        self.bounds, self.memory = Bounds(least, most), Memory()
        self.reasons: list[str] = []

    def passes(self, seconds: float, demand: Demand | None) -> int:
        until = self.now + seconds
        while self.now < until:
            decision = decide(self.workers, demand, self.bounds, self.memory, self.now, SETTINGS)
            self.workers, self.memory = decision.workers, decision.memory
            self.reasons += [decision.reason] if decision.reason else []
            self.now += 0.5
        return self.workers


def test_a_robot_that_asks_wakes_a_policy_at_once() -> None:
    story = Story(0)
    assert story.passes(100.0, Demand()) == 0
    assert story.passes(0.5, Demand(waiting=1)) == 1
    assert story.reasons == ["a robot asks"]


def test_one_whose_deadline_has_passed_already_wakes_it_too() -> None:
    assert Story(0).passes(0.5, Demand(asked_s_ago=1.0)) == 1


def test_a_policy_that_is_held_at_none_is_not_woken() -> None:
    assert Story(0, 0, 0).passes(10.0, Demand(waiting=5)) == 0


def test_waiting_requests_bring_more_workers_after_a_while() -> None:
    story = Story(1)
    assert story.passes(2.0, BUSY) == 1
    assert story.passes(1.0, BUSY) == 2  # no more than twice as many at once
    assert "requests wait 0.5 s" in story.reasons


def test_a_short_burst_brings_none() -> None:
    story = Story(1)
    for _ in range(20):
        story.passes(1.5, BUSY)
        story.passes(0.5, Demand(ready=1, slots=1, asked_s_ago=0.0))
    assert story.workers == 1


def test_no_more_are_started_while_some_are_on_their_way() -> None:
    story = Story(2)
    assert story.passes(600.0, BUSY) == 2  # one of them is ready
    assert story.passes(3.0, Demand(4, 0.5, 0.0, ready=2, slots=2, in_hand=2)) == 4


def test_free_workers_go_one_by_one_but_for_the_last() -> None:
    story = Story(3, least=1)
    quiet = Demand(asked_s_ago=0.0, ready=3, slots=3, in_hand=0)
    assert story.passes(60.0, quiet) == 3
    assert story.passes(1.0, quiet) == 2
    assert story.passes(1000.0, Demand(asked_s_ago=400.0, ready=1, slots=1)) == 2  # one starts
    assert story.passes(1000.0, Demand(asked_s_ago=400.0, ready=2, slots=2)) == 1


def test_the_last_one_goes_only_when_nobody_has_asked_for_long() -> None:
    assert Story(1).passes(1000.0, Demand(asked_s_ago=200.0, ready=1, slots=1)) == 1
    story = Story(1)
    assert story.passes(1.0, IDLE) == 0
    assert story.passes(1000.0, Demand(asked_s_ago=500.0)) == 0
    assert Story(1).passes(1000.0, Demand(waiting=1, asked_s_ago=400.0, ready=0)) == 1


def test_a_policy_that_nobody_ever_asked_for_goes_when_it_has_been_up_for_long() -> None:
    story = Story(0, least=1)
    story.passes(1.0, Demand())
    story.bounds = Bounds(0, 8)
    assert story.passes(200.0, Demand(ready=1, slots=1)) == 1
    assert story.passes(200.0, Demand(ready=1, slots=1)) == 0


def test_silent_brokers_change_nothing_but_the_bounds_do() -> None:
    story = Story(3, least=1)
    assert story.passes(1000.0, None) == 3
    story.bounds = Bounds(5, 8)
    assert story.passes(1.0, None) == 5


demands = st.none() | st.builds(
    Demand,
    waiting=st.integers(0, 50),
    wait_s=st.floats(0, 1e6),
    asked_s_ago=st.floats(0, 1e6) | st.just(math.inf),
    ready=st.integers(0, 10),
    slots=st.integers(0, 40),
    in_hand=st.integers(0, 40),
)


@given(
    st.integers(0, 12),
    st.integers(0, 5),
    st.integers(0, 5),
    st.lists(st.tuples(st.floats(0.01, 100.0), demands), max_size=40),
)
def test_it_stays_within_its_bounds_and_changes_slowly(
    workers: int, least: int, more: int, history: list[tuple[float, Demand | None]]
) -> None:
    bounds, memory, now = Bounds(least, least + more), Memory(), 0.0
    changed_at = -math.inf
    for passed_s, demand in history:
        now += passed_s
        decision = decide(workers, demand, bounds, memory, now, SETTINGS)
        assert bounds.least <= decision.workers <= bounds.most
        if decision.workers != workers:
            was_inside = bounds.least <= workers <= bounds.most
            if was_inside and workers > 0:
                assert now - changed_at >= SETTINGS.cool_down_s
                assert decision.workers <= 2 * workers
                assert decision.workers >= workers - 1
            assert decision.reason
            changed_at = now
        workers, memory = decision.workers, decision.memory


@given(st.floats(0.1, 1000.0))
def test_the_idleness_that_sends_a_policy_to_sleep_does_not_wake_it(idle_s: float) -> None:
    settings = ScalingSettings(idle_s=idle_s)
    asked_s_ago, memory, workers = 0.0, Memory(), 1
    sizes = []
    for step in range(100):
        asked_s_ago = step * idle_s / 20
        demand = Demand(asked_s_ago=asked_s_ago, ready=workers, slots=workers)
        decision = decide(workers, demand, Bounds(0, 4), memory, step * idle_s / 20, settings)
        workers, memory = decision.workers, decision.memory
        sizes.append(workers)
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("most", [1, 3, 8])
def test_load_that_goes_on_brings_as_many_as_are_allowed(most: int) -> None:
    story = Story(0, 0, most)
    for _ in range(200):
        workers = story.workers
        story.passes(1.0, Demand(9, 5.0, 0.0, ready=workers, slots=workers, in_hand=workers))
    assert story.workers == most
