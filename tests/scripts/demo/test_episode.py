"""The control loop: it goes on while chunks are computed, and notes what happened when."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from client import AsyncActionChunkBroker
from client.errors import BrokerUnreachable, Starved
from scripts.demo.episode import LONGEST_HOLD_STEPS, Episode, Pace, WatchedPolicy, run_episode

TIMING = {
    "client_timing": {"encode_ms": 0.0, "decode_ms": 0.0, "total_ms": 9.0},
    "server_timing": {"decode_ms": 0.0, "infer_ms": 8.0},
}
WAIT_S = 30.0


class CountingRobot:
    """Its state is the number of steps made."""

    def __init__(self) -> None:
        self.carried_out: list[float] = []

    def state(self) -> NDArray[np.float32]:
        return np.array([len(self.carried_out)], np.float32)

    def observe(self) -> dict[str, Any]:
        return {"state": self.state()}

    def step(self, action: NDArray[Any]) -> None:
        self.carried_out.append(float(action[0]))


class CountingPolicy:
    """Action i of the chunk for state s is 100 s + i; chunks hold five.

    The first answer is given at once, and each further one when `gate` is opened.
    """

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.gate = threading.Semaphore(1)
        self.is_broken = False

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        self.asked.release()
        assert self.gate.acquire(timeout=WAIT_S)
        if self.is_broken:
            raise BrokerUnreachable("nobody there")
        return {"actions": 100.0 * obs["state"] + np.arange(5)[:, None], **TIMING}

    def reset(self) -> None:
        pass

    def get_server_metadata(self) -> dict[str, Any]:
        return {}


@contextmanager
def driven(policy: CountingPolicy, episode: Episode) -> Iterator[AsyncActionChunkBroker]:
    watched = WatchedPolicy(policy, episode, lambda step: None)
    with AsyncActionChunkBroker(
        watched, 50, action_horizon=3, clock=lambda: episode.seconds
    ) as broker:
        yield broker
        policy.gate.release()


def answer(policy: CountingPolicy, broker: AsyncActionChunkBroker) -> None:
    """Let the request in flight be answered, and return when the broker has taken it."""
    assert policy.asked.acquire(timeout=WAIT_S)
    before = broker.statistics()
    policy.gate.release()
    with broker._changed:
        assert broker._changed.wait_for(lambda: _taken(broker) > before.answers, WAIT_S)


def _taken(broker: AsyncActionChunkBroker) -> int:
    return broker._schedule.statistics().answers


def test_the_robot_moves_on_while_it_waits_and_holds_where_nothing_is_left() -> None:
    robot, policy, episode = CountingRobot(), CountingPolicy(), Episode()
    with driven(policy, episode) as broker:

        def before_step(step: int) -> None:
            if step == 1:
                assert policy.asked.acquire(timeout=WAIT_S)  # the first chunk, long answered
            # The next is asked for at step 2; at step 5 nothing is left of the first.
            if step == 6:
                answer(policy, broker)

        run_episode(robot, broker, 7, before_step, episode)
    # Rows 0 to 2 of the chunk for step 2 were executed, as the old chunk's, while it was computed.
    assert robot.carried_out == [0, 1, 2, 3, 4, 4, 203, 204]
    assert (episode.held, episode.seams) == ([5], [6])
    assert [request[:2] for request in episode.requests[:2]] == [(0, 0), (2, 6)]
    assert episode.requests[0].stages["model"] == 8.0
    assert [float(state[0]) for state in episode.states] == list(range(episode.steps))
    assert [float(action[0]) for action in episode.actions] == robot.carried_out
    assert episode.changes().tolist() == [0, 1, 1, 1, 1, 0, 199, 1]


def test_a_robot_that_is_held_for_too_long_says_why() -> None:
    policy, episode = CountingPolicy(), Episode()
    with driven(policy, episode) as broker:

        def before_step(step: int) -> None:
            if step == 1:
                policy.is_broken = True
                policy.gate.release(1000)
            if step == 10:
                with broker._changed:
                    assert broker._changed.wait_for(lambda: broker._last_failure, WAIT_S)

        with pytest.raises(Starved, match="nobody there"):
            run_episode(CountingRobot(), broker, 20, before_step, episode)
    assert len(episode.held) == LONGEST_HOLD_STEPS


def test_a_loop_runs_no_faster_than_its_period_and_is_not_hurried() -> None:
    now, slept = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        slept.append(round(seconds, 6))
        now[0] += seconds

    pace = Pace(0.02, lambda: now[0], sleep)
    for busy_s in (0.005, 0.1, 0.005, 0.0):
        pace.wait()
        now[0] += busy_s
    assert slept == [0.0, 0.015, 0.0, 0.015]
