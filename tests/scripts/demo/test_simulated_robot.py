"""The simulated robot is gym-aloha's, to the last bit, and sends what `env=aloha_sim` takes."""

from __future__ import annotations

from collections.abc import Iterator

import gym_aloha  # registers the environment
import gymnasium
import numpy as np
import pytest

from client.image_tools import resize_with_pad
from scripts.demo.episode import CONTROL_PERIOD_S, STEPS_PER_FRAME
from scripts.demo.simulated_robot import SimulatedRobot


@pytest.fixture
def robot() -> Iterator[SimulatedRobot]:
    robot = SimulatedRobot(seed=3)
    yield robot
    robot.close()


def test_states_and_pictures_are_those_of_gym_aloha(robot: SimulatedRobot) -> None:
    world = gymnasium.make("gym_aloha/AlohaTransferCube-v0", obs_type="pixels_agent_pos")
    seen, _ = world.reset(seed=3)
    start = robot.state()
    np.testing.assert_array_equal(start, seen["agent_pos"].astype(np.float32))
    for step in range(4):
        action = start + 0.1 * np.sin(np.arange(14) + step)
        robot.step(action)
        seen, *_ = world.step(action)
    np.testing.assert_array_equal(robot.state(), seen["agent_pos"].astype(np.float32))
    np.testing.assert_array_equal(robot.picture(), seen["pixels"]["top"])
    assert gym_aloha.constants.DT == CONTROL_PERIOD_S
    world.close()


def test_observation(robot: SimulatedRobot) -> None:
    observation = robot.observe()
    image = observation["images"]["cam_high"]
    assert observation["state"].shape == (14,)
    assert (image.shape, image.dtype) == ((3, 224, 224), np.uint8)
    assert image.flags.c_contiguous
    resized = resize_with_pad(robot.picture(), 224, 224)
    np.testing.assert_array_equal(image.transpose(1, 2, 0), resized)
    assert image[:, 28:196].std() > 10  # the scene, between black bars
    assert not image[:, :28].any()


def test_a_frame_is_taken_at_every_second_step(robot: SimulatedRobot) -> None:
    before, sent = robot.picture(), robot.observe()["images"]["cam_high"]
    for step in range(1, 5):
        robot.step(robot.state() + 0.3)
        is_new = step % STEPS_PER_FRAME == 0
        assert (robot.picture() != before).any() == is_new
        assert (robot.observe()["images"]["cam_high"] != sent).any() == is_new
        before, sent = robot.picture(), robot.observe()["images"]["cam_high"]


def test_a_reset_puts_everything_back(robot: SimulatedRobot) -> None:
    state, picture = robot.state(), robot.picture()
    robot.step(state + 0.3)
    robot.reset(seed=3)
    np.testing.assert_array_equal(robot.state(), state)
    np.testing.assert_array_equal(robot.picture(), picture)
    robot.reset(seed=4)
    assert (robot.picture() != picture).any()  # the cube lies elsewhere
    assert not robot.transferred_cube


def test_rewards_are_kept_until_a_reset(robot: SimulatedRobot) -> None:
    assert robot.best_reward == 0
    robot.step(robot.state())
    assert robot.rewards == [0]
    assert (robot.transferred_cube, robot.let_go) == (False, False)
    first = robot.observe()["seed"]
    robot.reset(seed=3)
    assert robot.rewards == []
    assert robot.observe()["seed"] == first - 1
