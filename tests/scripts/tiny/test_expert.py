"""The experts succeed by the environment's own reward, and say when they cannot."""

import numpy as np
import pytest

from scripts.tiny.expert import STEPS, Expert
from scripts.tiny.kinematics import START, Arm, Pose, Unreachable
from scripts.tiny.scene import EPISODE_STEPS, INSERTION, SUCCESS, TASKS, TRANSFER, Scene

SEEDS = range(3)


@pytest.mark.parametrize("name", TASKS)
def test_the_expert_succeeds(name: str) -> None:
    scene = Scene(TASKS[name])
    expert = Expert(TASKS[name], scene.physics.model.ptr)
    for seed in SEEDS:
        scene.reset(seed)
        plan = expert.plan(scene.places())
        assert plan.shape == (STEPS, 14)
        held = np.concatenate([plan, np.repeat(plan[-1:], EPISODE_STEPS - STEPS, axis=0)])
        rewards = [scene.step(action) for action in held]
        assert max(rewards) == SUCCESS
        if name == TRANSFER.name:
            assert scene.let_go()


def test_a_cube_that_is_elsewhere_is_not_handed_over() -> None:
    scene = Scene(TRANSFER)
    expert = Expert(TRANSFER, scene.physics.model.ptr)
    scene.reset(0)
    plan = expert.plan(scene.places() + np.array([0.0, -0.06, 0.0]))
    assert max(scene.step(action) for action in plan) < SUCCESS
    assert not scene.let_go()


def test_a_plan_never_waits_and_never_jumps() -> None:
    scene = Scene(TRANSFER)
    scene.reset(1)
    plan = Expert(TRANSFER, scene.physics.model.ptr).plan(scene.places())
    moved = np.abs(np.diff(plan, axis=0))
    assert moved.max(axis=1).min() > 0.0
    assert moved[:, [*range(6), *range(7, 13)]].max() < 0.1


@pytest.mark.parametrize("side", ["left", "right"])
def test_kinematics_reach_the_pose_that_was_asked_for(side: str) -> None:
    model = Scene(INSERTION).physics.model.ptr
    sign = 1.0 if side == "right" else -1.0
    pose = Pose((0.15 * sign, 0.45, 0.1), yaw=180.0 if side == "right" else 0.0, pitch=60.0)
    joints = Arm(model, side).solve(pose, START)
    # From elsewhere the same pose has the same joints: no other branch is taken.
    again = Arm(model, side).solve(pose, joints + 0.05)
    np.testing.assert_allclose(again, joints, atol=1e-3)


def test_a_pose_beyond_reach_is_an_error() -> None:
    model = Scene(TRANSFER).physics.model.ptr
    with pytest.raises(Unreachable, match="misses by"):
        Arm(model, "right").solve(Pose((-0.6, 0.5, 0.2), yaw=180.0), START)
