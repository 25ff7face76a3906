"""openpi's semantics: one action a step, a new chunk when the last one is used up."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client import ActionChunkBroker


class CountingPolicy:
    """Chunk `n` (from 0) of 4 actions is 10n, 10n + 1, ...; it remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.resets = 0

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        first = 10 * len(self.asked)
        self.asked.append(obs["step"])
        return {
            "actions": np.arange(first, first + 4)[:, None],
            "nested": {"state": np.arange(4) + 0.5},
            "policy_timing": {"infer_ms": 1.0},
        }

    def reset(self) -> None:
        self.resets += 1


def actions(broker: ActionChunkBroker, steps: range) -> list[int]:
    """The single number of each step's action."""
    return [broker.infer({"step": step})["actions"].item() for step in steps]


def test_a_chunk_lasts_for_its_horizon() -> None:
    policy = CountingPolicy()
    broker = ActionChunkBroker(policy, 4)
    assert actions(broker, range(9)) == [0, 1, 2, 3, 10, 11, 12, 13, 20]
    assert policy.asked == [0, 4, 8]


def test_a_shorter_horizon_throws_the_rest_away() -> None:
    policy = CountingPolicy()
    assert actions(ActionChunkBroker(policy, 2), range(5)) == [0, 1, 10, 11, 20]


def test_one_step_has_no_axis_for_steps() -> None:
    result = ActionChunkBroker(CountingPolicy(), 4).infer({"step": 0})
    assert result["actions"].shape == (1,)
    assert result["nested"]["state"] == 0.5
    assert result["policy_timing"] == {"infer_ms": 1.0}


def test_reset_forgets_the_chunk_and_resets_the_policy() -> None:
    policy = CountingPolicy()
    broker = ActionChunkBroker(policy, 4)
    actions(broker, range(2))
    broker.reset()
    assert actions(broker, range(2, 4)) == [10, 11]
    assert policy.resets == 1


def test_a_policy_that_fails_is_asked_again() -> None:
    policy = CountingPolicy()
    broker = ActionChunkBroker(policy, 4)
    with pytest.raises(KeyError):
        broker.infer({})
    assert actions(broker, range(1)) == [0]


def test_a_horizon_that_the_policy_does_not_have() -> None:
    with pytest.raises(ValueError, match="answers 4 actions at a time: an action_horizon of 5"):
        ActionChunkBroker(CountingPolicy(), 5).infer({"step": 0})


@pytest.mark.parametrize("horizon", [0, -1])
def test_a_horizon_that_cannot_be(horizon: int) -> None:
    with pytest.raises(ValueError, match="at least 1 step"):
        ActionChunkBroker(CountingPolicy(), horizon)
