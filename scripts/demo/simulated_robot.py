"""A two-armed ALOHA robot in MuJoCo, with gym-aloha's AlohaTransferCube-v0 as its world.

gym-aloha's own environment renders three cameras at every control step, which would make the demo
four times as long. This class drives the same scene and the same task, and renders the top camera
when somebody looks; states and pictures are identical (a test compares).
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.image_tools import resize_with_pad
from scripts.demo.episode import CONTROL_PERIOD_S

os.environ.setdefault("MUJOCO_GL", "egl")  # dm_control chooses its renderer when it is imported

from dm_control import mujoco
from gym_aloha.constants import ASSETS_DIR
from gym_aloha.tasks.sim import BOX_POSE, TransferCubeTask
from gym_aloha.utils import sample_box_pose

CAMERA_HEIGHT, CAMERA_WIDTH = 480, 640
POLICY_PIXELS = 224


class SimulatedRobot:
    """The robot's side of a control loop: `observe`, then `step` with each action of the chunk.

    Joint order, here and in actions: left waist, shoulder, elbow, forearm roll, wrist angle, wrist
    rotation (rad), left gripper (0 closed, 1 open), then the same seven for the right arm.
    """

    def __init__(self, seed: int = 0) -> None:
        self._task = TransferCubeTask()
        scene = ASSETS_DIR / "bimanual_viperx_transfer_cube.xml"
        self._physics: Any = mujoco.Physics.from_xml_path(str(scene))
        self._substeps = round(CONTROL_PERIOD_S / self._physics.timestep())
        self.best_reward = 0
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Arms to their start pose, and the cube to a place that `seed` decides."""
        BOX_POSE[0] = sample_box_pose(seed)  # where gym-aloha's task looks for it
        with self._physics.reset_context():
            self._task.initialize_episode(self._physics)
        self.best_reward = 0
        self._picture: NDArray[np.uint8] | None = None

    def state(self) -> NDArray[np.float32]:
        """Joint positions (14,), in the order of the class's docstring."""
        return np.asarray(self._task.get_qpos(self._physics), np.float32)

    def picture(self) -> NDArray[np.uint8]:
        """What the top camera sees now, (480, 640, 3); rendered once per control step at most."""
        if self._picture is None:
            rendered = self._physics.render(CAMERA_HEIGHT, CAMERA_WIDTH, camera_id="top")
            self._picture = np.ascontiguousarray(rendered, np.uint8)
        return self._picture

    def observe(self) -> dict[str, Any]:
        """What `env=aloha_sim` takes: `state` (14,) and one camera (3, 224, 224) uint8."""
        image = resize_with_pad(self.picture(), POLICY_PIXELS, POLICY_PIXELS)
        channels_first = np.ascontiguousarray(np.moveaxis(image, -1, 0))
        return {"state": self.state(), "images": {"cam_high": channels_first}}

    def step(self, action: NDArray[Any]) -> None:
        """Hold the joint targets `action` (14,) for one control period of 20 ms."""
        self._task.before_step(action, self._physics)
        self._physics.step(self._substeps)
        self.best_reward = max(self.best_reward, int(self._task.get_reward(self._physics)))
        self._picture = None

    @property
    def transferred_cube(self) -> bool:
        """Whether the left gripper has held the cube off the table: the task's full reward."""
        return self.best_reward >= int(self._task.max_reward)

    def close(self) -> None:
        """Free the renderer's memory."""
        self._physics.free()
