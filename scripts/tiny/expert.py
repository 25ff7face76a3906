"""Scripted experts: what the arms should do, once it is known where the objects lie.

A plan is made of keyframes. Inverse kinematics turns each into joints, and a monotone spline leads
through them, so that nothing overshoots and no part of the plan waits: a policy that sees joints
and picture can tell at every moment how far it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from scripts.tiny.kinematics import START, Arm, Pose, Unreachable
from scripts.tiny.scene import INSERTION, TRANSFER, Task

Array = NDArray[np.float64]

STEPS = 270
"""Control steps of a plan, 5.4 s."""
CAREFUL = {TRANSFER.name: [(84, 122), (178, 228)], INSERTION.name: [(84, 122), (168, 240)]}
"""When a plan must be followed closely, as first and last control steps: grasp and meeting."""

__all__ = ["CAREFUL", "STEPS", "Expert", "Unreachable"]


@dataclass(frozen=True)
class Keyframe:
    """An arm's pose at a control step; it gets there from the last one along the joints."""

    step: int
    pose: Pose


@dataclass(frozen=True)
class ArmPlan:
    """One arm's keyframes, and its gripper's: pairs of control step and opening, 0 to 1."""

    poses: Sequence[Keyframe]
    gripper: Sequence[tuple[int, float]]

    def commands(self, arm: Arm) -> Array:
        """Actions (STEPS, 7).

        Raises:
            Unreachable: a keyframe lies where the arm cannot get.
        """
        steps, joints = [0], [START]
        for keyframe in self.poses:
            steps.append(keyframe.step)
            joints.append(arm.solve(keyframe.pose, joints[-1]))
        times = np.arange(STEPS)
        moving = PchipInterpolator(steps, np.stack(joints))(np.minimum(times, steps[-1]))
        changes, openings = zip(*self.gripper, strict=True)
        opening = np.interp(times, changes, openings)
        return np.concatenate([moving, opening[:, None]], axis=1)


class Expert:
    """Plans for one task."""

    def __init__(self, task: Task, model: Any) -> None:
        """`model`: MuJoCo's, of the task's scene."""
        self._plans = {TRANSFER.name: transfer, INSERTION.name: insertion}[task.name]
        self._arms = [Arm(model, side) for side in ("left", "right")]

    def plan(self, places: Array) -> Array:
        """Actions (STEPS, 14) for objects at `places` (objects, 3), as they fell on the table.

        Raises:
            Unreachable: an object lies where an arm can't get.
        """
        plans = self._plans(places)
        both = [plan.commands(arm) for plan, arm in zip(plans, self._arms, strict=True)]
        return np.concatenate(both, axis=1)


def transfer(places: Array) -> tuple[ArmPlan, ArmPlan]:
    """Left and right arm's part in handing over the cube at `places` (1, 3)."""
    x, y = places[0, :2]
    grasp = Pose((x, y, 0.02), yaw=180.0, pitch=60.0)
    # The hands keep rising while the cube goes from one to the other. If they were still, a policy
    # that sees this picture could not tell how long it has been so.
    giving = Pose((0.0, 0.5, 0.24), yaw=180.0, pitch=60.0)
    taking = Pose((-0.005, 0.5, 0.24), roll=90.0)
    right = ArmPlan(
        [
            Keyframe(60, grasp.withdrawn(0.08)),
            Keyframe(90, grasp),
            Keyframe(106, grasp.moved(z=0.003)),
            Keyframe(130, grasp.moved(z=0.06)),
            Keyframe(162, giving.moved(x=0.05)),
            Keyframe(185, giving),
            Keyframe(203, giving.moved(z=0.02)),
            Keyframe(221, giving.moved(z=0.04)),
            Keyframe(245, giving.moved(z=0.04).withdrawn(0.08)),
            Keyframe(STEPS - 1, giving.moved(z=0.04).withdrawn(0.12)),
        ],
        [(0, 0.0), (40, 1.0), (90, 1.0), (104, 0.0), (207, 0.0), (219, 1.0)],
    )
    left = ArmPlan(
        [
            Keyframe(110, taking.moved(x=-0.15)),
            Keyframe(160, taking.moved(x=-0.12)),
            Keyframe(185, taking),
            Keyframe(203, taking.moved(z=0.02)),
            Keyframe(221, taking.moved(z=0.04)),
            Keyframe(245, taking.moved(x=-0.04, z=0.04)),
            Keyframe(STEPS - 1, taking.moved(x=-0.08, z=0.04)),
        ],
        [(0, 0.0), (60, 0.0), (110, 1.0), (188, 1.0), (203, 0.0)],
    )
    return left, right


def insertion(places: Array) -> tuple[ArmPlan, ArmPlan]:
    """Left and right arm's part in putting the peg into the socket: `places` (2, 3), in order."""
    peg, socket = places[:, :2]
    left = _carry(Pose((*socket, 0.025), pitch=60.0), Pose((-0.10, 0.5, 0.2), pitch=60.0), 0.055)
    right = _carry(
        Pose((*peg, 0.018), yaw=180.0, pitch=60.0),
        Pose((0.10, 0.5, 0.206), yaw=180.0, pitch=60.0),
        -0.055,
    )
    return left, right


def _carry(grasp: Pose, meeting: Pose, push: float) -> ArmPlan:
    """Take what lies at `grasp` to `meeting` and push it `push` metres along x."""
    return ArmPlan(
        [
            Keyframe(60, grasp.withdrawn(0.08)),
            Keyframe(90, grasp),
            Keyframe(106, grasp.moved(z=0.003)),
            Keyframe(130, grasp.moved(z=0.06)),
            Keyframe(172, meeting),
            Keyframe(195, meeting.moved(x=0.4 * push)),
            Keyframe(218, meeting.moved(x=0.8 * push)),
            Keyframe(240, meeting.moved(x=push)),
        ],
        [(0, 0.0), (40, 1.0), (90, 1.0), (104, 0.0)],
    )
