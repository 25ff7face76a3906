"""The control loop: when it asks, and which action of which chunk it carries out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scripts.demo.episode import run_episode

TIMING = {
    "client_timing": {"encode_ms": 0.0, "decode_ms": 0.0, "total_ms": 9.0},
    "server_timing": {"decode_ms": 0.0, "infer_ms": 8.0},
}


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
    """Action i of the chunk for state s is 100 s + i; chunks hold five."""

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        return {"actions": 100 * obs["state"] + np.arange(5)[:, None], **TIMING}


def test_each_chunk_is_used_in_part_and_replaced() -> None:
    robot = CountingRobot()
    calls: list[int] = []
    asked: list[int] = []
    episode = run_episode(robot, CountingPolicy(), 7, 3, calls.append, asked.append)
    assert robot.carried_out == [0, 1, 2, 300, 301, 302, 600]
    assert [float(action[0]) for action in episode.actions] == robot.carried_out
    assert [float(state[0]) for state in episode.states] == [0, 1, 2, 3, 4, 5, 6]
    assert [request.step for request in episode.requests] == asked == [0, 3, 6]
    assert episode.requests[0].stages["model"] == 8.0
    assert calls == list(range(7))


def test_chunks_that_are_too_short_are_an_error() -> None:
    with pytest.raises(ValueError, match="hold 5 actions, fewer than 6"):
        run_episode(CountingRobot(), CountingPolicy(), 7, 6, lambda step: None, lambda step: None)
