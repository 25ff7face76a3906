"""The two worlds of gym-aloha, AlohaTransferCube and AlohaInsertion, as a robot sees them.

gym-aloha's own environment renders three cameras at every control step. Here the same scene and
the same task are driven, and the top camera is rendered only when somebody looks: physics, rewards
and pictures are identical (a test compares).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.image_tools import resize_with_pad

os.environ.setdefault("MUJOCO_GL", "egl")  # dm_control chooses its renderer when it is imported

from dm_control import mujoco
from gym_aloha.constants import ASSETS_DIR
from gym_aloha.tasks.sim import BOX_POSE, InsertionTask, TransferCubeTask
from gym_aloha.utils import sample_box_pose, sample_insertion_pose

Array = NDArray[np.float64]

CONTROL_PERIOD_S = 0.02
EPISODE_STEPS = 300
"""Control steps of an evaluation's episode; the experts are done after `expert.STEPS`."""
PICTURE_SHAPE = (480, 640)
POLICY_PIXELS = 224
SUCCESS = 4
"""The full reward of either task."""


@dataclass(frozen=True)
class Task:
    """One of gym-aloha's tasks and the words that ask a policy for it."""

    name: str
    prompt: str
    scene: str
    objects: int
    """Free bodies, each with seven numbers of place and orientation."""


TRANSFER = Task("transfer", "Transfer cube", "bimanual_viperx_transfer_cube.xml", 1)
INSERTION = Task("insertion", "Insert peg", "bimanual_viperx_insertion.xml", 2)
TASKS = {task.name: task for task in (TRANSFER, INSERTION)}


class Scene:
    """One simulated robot before one task.

    Joint order, in states and actions: left waist, shoulder, elbow, forearm roll, wrist angle,
    wrist rotation (rad), left gripper (0 closed, 1 open), then the same seven for the right arm.
    """

    def __init__(self, task: Task, shadow_pixels: int | None = None) -> None:
        """`shadow_pixels`: side of the shadow map; fewer than MuJoCo's 4096 render faster."""
        self.task = task
        self._rules: Any = TransferCubeTask() if task is TRANSFER else InsertionTask()
        self.physics: Any = mujoco.Physics.from_xml_path(str(ASSETS_DIR / task.scene))
        if shadow_pixels is not None:
            self.physics.model.vis.quality.shadowsize = shadow_pixels
        self._substeps = round(CONTROL_PERIOD_S / self.physics.timestep())
        self._picture: NDArray[np.uint8] | None = None

    def reset(self, seed: int) -> None:
        """Arms to their start pose, and the objects to places that `seed` decides."""
        if self.task is TRANSFER:
            BOX_POSE[0] = sample_box_pose(seed)  # where gym-aloha's task looks for it
        else:
            BOX_POSE[0] = np.concatenate(sample_insertion_pose(seed))
        with self.physics.reset_context():
            self._rules.initialize_episode(self.physics)
        self._picture = None

    def step(self, action: NDArray[Any]) -> int:
        """Hold the joint targets `action` (14,) for 20 ms; the task's reward, 0 to 4, then."""
        self._rules.before_step(action, self.physics)
        self.physics.step(self._substeps)
        self._picture = None
        return int(self._rules.get_reward(self.physics))

    def state(self) -> NDArray[np.float32]:
        """Joint positions (14,)."""
        return np.asarray(self._rules.get_qpos(self.physics), np.float32)

    def places(self) -> Array:
        """Where the objects are, in metres, float64 (objects, 3)."""
        poses = np.array(self.physics.data.qpos[16:]).reshape(self.task.objects, 7)
        return poses[:, :3]

    def picture(self) -> NDArray[np.uint8]:
        """What the top camera sees now, (480, 640, 3); rendered once per control step at most."""
        if self._picture is None:
            rendered = self.physics.render(*PICTURE_SHAPE, camera_id="top")
            self._picture = np.ascontiguousarray(rendered, np.uint8)
        return self._picture

    def small_picture(self) -> NDArray[np.uint8]:
        """The picture as the client sends it: (224, 224, 3), its sides' ratio kept."""
        return resize_with_pad(self.picture(), POLICY_PIXELS, POLICY_PIXELS)

    def touches(self, *geoms: str) -> bool:
        """Whether any two of `geoms`, named in MuJoCo's model, are in contact."""
        ids = {self.physics.model.name2id(name, "geom") for name in geoms}
        contacts = self.physics.data.contact
        return any({int(c.geom1), int(c.geom2)} <= ids for c in contacts)

    def let_go(self) -> bool:
        """Whether the left gripper alone holds the cube off the table."""
        fingers = [f"vx300s_right/10_{side}_gripper_finger" for side in ("left", "right")]
        held_by_right = any(self.touches("red_box", finger) for finger in fingers)
        return int(self._rules.get_reward(self.physics)) == SUCCESS and not held_by_right

    def close(self) -> None:
        """Free the renderer's memory."""
        self.physics.free()
