"""The scene is gym-aloha's environment, only rendered more seldom."""

from typing import Any

import numpy as np
import pytest

from scripts.tiny.expert import Expert
from scripts.tiny.scene import TASKS, Scene

GYM_TASKS = {"transfer": "transfer_cube", "insertion": "insertion"}


@pytest.mark.parametrize("name", TASKS)
def test_physics_rewards_and_pictures_are_gym_alohas(name: str) -> None:
    from gym_aloha.env import AlohaEnv

    env: Any = AlohaEnv(task=GYM_TASKS[name], obs_type="pixels_agent_pos")
    scene = Scene(TASKS[name])
    observation, _ = env.reset(seed=5)
    scene.reset(5)
    plan = Expert(scene.task, scene.physics.model.ptr).plan(scene.places())
    # From another moment of the plan, so that the arms have to move. gym-aloha renders three
    # cameras at each step, which costs a third of a second.
    for action in plan[100:103]:
        np.testing.assert_array_equal(scene.state(), observation["agent_pos"].astype(np.float32))
        np.testing.assert_array_equal(scene.picture(), observation["pixels"]["top"])
        reward = scene.step(action)
        observation, theirs, *_ = env.step(action)
        assert reward == theirs
    scene.close()
