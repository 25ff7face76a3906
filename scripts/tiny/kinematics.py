"""Inverse kinematics of one ALOHA arm: joints that bring its fingertips to a pose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from gym_aloha.constants import START_ARM_POSE
from numpy.typing import NDArray

Array = NDArray[np.float64]

JOINTS = ("waist", "shoulder", "elbow", "forearm_roll", "wrist_angle", "wrist_rotate")
START = np.array(START_ARM_POSE[:6])
"""The joints of either arm at the start, in rad."""
GRASP_REACH_M = 0.14
"""From the wrist's frame (`gripper_link`) to the middle of the fingertips."""

_ITERATIONS = 300
_DAMPING = 0.02
_LONGEST_STEP = 0.2  # rad
_TOLERANCE = 1e-4  # metres and radians together


class Unreachable(ValueError):
    """No joint positions were found for a pose."""


@dataclass(frozen=True)
class Pose:
    """Where the middle of the fingertips is, and how the gripper is turned.

    Angles in degrees: `yaw` about the world's z, then `pitch` (positive points down), then `roll`
    about the gripper's own axis.
    """

    place: tuple[float, float, float]
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0

    def rotation(self) -> Array:
        """(3, 3), its columns the gripper's axes in the world."""
        y, p, r = np.radians([self.yaw, self.pitch, self.roll])
        about_z = np.array([[np.cos(y), -np.sin(y), 0], [np.sin(y), np.cos(y), 0], [0, 0, 1]])
        about_y = np.array([[np.cos(p), 0, np.sin(p)], [0, 1, 0], [-np.sin(p), 0, np.cos(p)]])
        about_x = np.array([[1, 0, 0], [0, np.cos(r), -np.sin(r)], [0, np.sin(r), np.cos(r)]])
        turned: Array = about_z @ about_y @ about_x
        return turned

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Pose:
        """The same orientation, so many metres away."""
        px, py, pz = self.place
        return Pose((px + x, py + y, pz + z), self.yaw, self.pitch, self.roll)

    def withdrawn(self, distance: float) -> Pose:
        """The same orientation, `distance` metres back along the gripper's axis."""
        back = -distance * self.rotation()[:, 0]
        return self.moved(*back)


class Arm:
    """Solves for one arm, `left` or `right`, of a MuJoCo model, without touching its state."""

    def __init__(self, model: Any, side: str) -> None:
        self._model = model
        self._data = mujoco.MjData(model)
        joints = [model.joint(f"vx300s_{side}/{name}") for name in JOINTS]
        self._places = np.array([joint.qposadr[0] for joint in joints])
        self._columns = np.array([joint.dofadr[0] for joint in joints])
        self._limits = np.array([joint.range for joint in joints])
        self._body = model.body(f"vx300s_{side}/gripper_link").id

    def solve(self, pose: Pose, start: Array) -> Array:
        """Joints (6,) in rad for `pose`, found from `start` by damped least squares.

        Levenberg-Marquardt's step J^T (J J^T + damping^2)^-1 error on place and orientation
        (Buss, "Introduction to inverse kinematics", 2004).

        Raises:
            Unreachable: the pose is beyond the arm's reach or joint limits.
        """
        joints, turned = np.array(start, np.float64), pose.rotation()
        jacobian = np.zeros((2, 3, self._model.nv))
        for _ in range(_ITERATIONS):
            error = self._error(joints, pose, turned, jacobian)
            if np.linalg.norm(error) < _TOLERANCE:
                return joints
            rows = jacobian.reshape(6, -1)[:, self._columns]
            damped = rows @ rows.T + _DAMPING**2 * np.eye(6)
            step = rows.T @ np.linalg.solve(damped, error)
            step *= min(1.0, _LONGEST_STEP / float(np.abs(step).max()))
            joints = np.clip(joints + step, *self._limits.T)
        raise Unreachable(f"{pose} misses by {np.linalg.norm(error):.4f} m and rad")

    def _error(self, joints: Array, pose: Pose, turned: Array, jacobian: Array) -> Array:
        """What is missing, (6,): metres, then a rotation vector; `jacobian` is filled."""
        model, data = self._model, self._data
        data.qpos[self._places] = joints
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        now = data.xmat[self._body].reshape(3, 3)
        point = data.xpos[self._body] + GRASP_REACH_M * now[:, 0]
        mujoco.mj_jac(model, data, jacobian[0], jacobian[1], point, self._body)
        quaternion, rotation = np.zeros(4), np.zeros(3)
        mujoco.mju_mat2Quat(quaternion, (turned @ now.T).ravel())
        mujoco.mju_quat2Vel(rotation, quaternion, 1.0)
        return np.concatenate([np.array(pose.place) - point, rotation])
