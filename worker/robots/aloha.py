"""ALOHA, the robot and its simulator: two arms of six joints and a gripper each.

The public models were trained in a convention of their own: four joints turn the other way, and
grippers are angles of the motor, not openings. Constants are the robot's (Trossen's gripper
linkage and calibration) as the public system has them.
"""

import numpy as np

from worker.robots.observations import Array, Image, Vector
from worker.robots.robot import Adaptation, RobotSpec

GRIPPERS = [6, 13]
SIGNS = np.array([1, -1, -1, 1, 1, 1, 1, 1, -1, -1, 1, 1, 1, 1], dtype=np.float64)

# The opening that 0 and 1 stand for, in metres.
OPENING = (0.01844, 0.05800)
# The motor's angle that the models call 0 and 1, in radians.
ANGLE = (0.5476, 1.6296)
# The motor's angle that the robot's commands call 0 and 1, in radians.
COMMAND = (-0.6213, 1.4910)
# The linkage: length of the arm and of the horn, in metres.
ARM, HORN = 0.036, 0.022


def state_to_model(state: Array) -> Array:
    """The robot's state (14,) in the models' convention."""
    state = SIGNS * state
    opening = state[GRIPPERS] * (OPENING[1] - OPENING[0]) + OPENING[0]
    cosine = (HORN**2 + opening**2 - ARM**2) / (2 * HORN * opening)
    angle = np.arcsin(np.clip(cosine, -1.0, 1.0))
    state[GRIPPERS] = (angle - ANGLE[0]) / (ANGLE[1] - ANGLE[0])
    return state


def actions_from_model(actions: Array) -> Array:
    """The models' actions (horizon, 14) as commands to the robot."""
    actions = SIGNS * actions
    angle = actions[:, GRIPPERS] + ANGLE[0]
    actions[:, GRIPPERS] = (angle - COMMAND[0]) / (COMMAND[1] - COMMAND[0])
    return actions


def actions_to_model(actions: Array) -> Array:
    """Commands to the robot (..., 14) in the models' convention: undoes `actions_from_model`."""
    actions = SIGNS * actions
    angle = actions[..., GRIPPERS] * (COMMAND[1] - COMMAND[0]) + COMMAND[0]
    actions[..., GRIPPERS] = angle - ANGLE[0]
    return actions


def _camera(name: str, camera: str | None, optional: bool = True) -> Image:
    return Image(("images", name), camera, channels_last=False, optional=optional)


ALOHA = RobotSpec(
    vectors=(Vector(("state",), 14),),
    images=(
        _camera("cam_high", "base_0_rgb", optional=False),
        _camera("cam_low", None),
        _camera("cam_left_wrist", "left_wrist_0_rgb"),
        _camera("cam_right_wrist", "right_wrist_0_rgb"),
    ),
    action_dim=14,
    adaptation=Adaptation(state_to_model, actions_from_model, actions_to_model),
)
