"""Action guards through a real worker and broker: what the robot gets, and what is counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client.errors import GuardBreached, PolicyFailed
from scripts.simple_client.examples import make_example
from tests.e2e.stack import Stack

CLIP = "env.guards.on_breach=clip"
OBEDIENT = "{_target_: tests.e2e.policies.Obedient}"


def counted(stack: Stack, policy: str) -> Any:
    return stack.client().status()["policies"][policy]["guards"]


def test_actions_are_clipped_or_refused_and_both_are_counted(stack: Stack) -> None:
    stack.broker()
    aloha = ("env=aloha_sim", "env.guards.max_change=1")
    workers = [
        stack.worker("clips", *aloha, CLIP, policy=OBEDIENT),
        stack.worker("refuses", *aloha, "env.guards.on_breach=refuse", policy=OBEDIENT),
        stack.worker("unguarded", "env=aloha_sim", policy=OBEDIENT),
    ]
    for worker in workers:
        worker.wait_ready()
    wild = np.zeros((10, 14))
    wild[5:, 1] = 9.0  # far beyond the shoulder's range
    robot = stack.client(policy="clips")
    answer = robot.infer({"wanted": wild})
    np.testing.assert_allclose(answer["actions"][4:7, 1], [0.0, 1.0, 1.25664], atol=1e-6)
    told = {"left_shoulder/limit": 5, "left_shoulder/rate": 1}
    assert answer["clipped_actions"] == told
    assert "clipped_actions" not in robot.infer({"wanted": np.zeros((10, 14))})
    with pytest.raises(GuardBreached, match="finite"):
        robot.infer({"wanted": np.full((10, 14), np.nan)})
    assert counted(stack, "clips")["clipped"] == told
    assert counted(stack, "clips")["refused"]["right_gripper/finite"] == 10

    with pytest.raises(GuardBreached, match=r"left_shoulder/limit \(5\)") as caught:
        stack.client(policy="refuses").infer({"wanted": wild})
    assert isinstance(caught.value, PolicyFailed)
    assert counted(stack, "refuses") == {"clipped": {}, "refused": told}

    free = stack.client(policy="unguarded").infer({"wanted": wild})
    np.testing.assert_array_equal(free["actions"], wild)
    assert counted(stack, "unguarded") == {"clipped": {}, "refused": {}}


def test_a_model_is_guarded_after_its_transforms(stack: Stack) -> None:
    stack.broker()
    settings = ("env=aloha_sim", "model=tiny", "device=cpu", "num_steps=1")
    rules = (CLIP, "env.guards.max_first_change=0.01", "env.guards.max_change=0.001")
    stack.worker("tiny", *settings, *rules, policy="pi0").wait_ready()
    observation = make_example("aloha_sim")
    answer = stack.client().infer(observation)
    actions, state = answer["actions"], np.asarray(observation["state"])
    assert np.abs(np.diff(actions, axis=0)).max() <= 0.0010001
    inside = (np.abs(state) < 1.0) & (state > 0.01)  # where no limit is nearer than the state
    assert inside.any()
    assert np.abs(actions[0] - state)[inside].max() <= 0.010001
    assert sum(answer["clipped_actions"].values()) > 50
