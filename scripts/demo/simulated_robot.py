"""A two-armed ALOHA robot in MuJoCo, with gym-aloha's AlohaTransferCube-v0 as its world.

The scene is the one that the tiny model was trained in; this class also follows a whole episode.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.demo.episode import STEPS_PER_FRAME
from scripts.tiny.scene import EPISODE_STEPS, SUCCESS, TRANSFER, Scene


class SimulatedRobot:
    """The robot's side of a control loop: `observe`, then `step` with an action, at every step.

    Joint order, here and in actions: left waist, shoulder, elbow, forearm roll, wrist angle, wrist
    rotation (rad), left gripper (0 closed, 1 open), then the same seven for the right arm.
    """

    def __init__(self, seed: int = 0) -> None:
        self._scene = Scene(TRANSFER)
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Arms to their start pose, and the cube to a place that `seed` decides."""
        self._scene.reset(seed)
        self._seed = seed
        self.rewards: list[int] = []
        self._look()

    def state(self) -> NDArray[np.float32]:
        """Joint positions (14,), in the order of the class's docstring."""
        return self._scene.state()

    def picture(self) -> NDArray[np.uint8]:
        """The top camera's last frame, (480, 640, 3): of this control step or of the one before."""
        return self._frame

    def observe(self) -> dict[str, Any]:
        """What `env=aloha_sim` takes: `state` (14,) and one camera (3, 224, 224) uint8.

        The noise's `seed` goes with it, so that an episode can be repeated.
        """
        seed = EPISODE_STEPS * self._seed + len(self.rewards)
        return {"state": self.state(), "images": {"cam_high": self._image}, "seed": seed}

    def step(self, action: NDArray[Any]) -> None:
        """Hold the joint targets `action` (14,) for one control period of 20 ms."""
        self.rewards.append(self._scene.step(action))
        if len(self.rewards) % STEPS_PER_FRAME == 0:
            self._look()

    def _look(self) -> None:
        self._frame = self._scene.picture()
        image = self._scene.small_picture()
        self._image = np.ascontiguousarray(np.moveaxis(image, -1, 0))

    @property
    def best_reward(self) -> int:
        """The best of all steps, 0 to 4."""
        return max(self.rewards, default=0)

    @property
    def transferred_cube(self) -> bool:
        """Whether the left gripper has held the cube off the table: the task's full reward."""
        return self.best_reward >= SUCCESS

    @property
    def let_go(self) -> bool:
        """Whether the left gripper alone holds the cube off the table now."""
        return self._scene.let_go()

    def close(self) -> None:
        """Free the renderer's memory."""
        self._scene.close()
