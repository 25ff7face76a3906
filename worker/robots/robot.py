"""What a robot module says about its robot: data and, if needed, a change of convention."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from worker.robots.observations import (
    Array,
    CheckedObservation,
    Image,
    Picture,
    Vector,
    key_name,
)

CAMERAS = ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb")
"""The model's cameras, in the order of their tokens."""


Cameras = dict[str, Image]
"""The robot's image by the model's name for its camera, in the order of their tokens."""


@dataclass(frozen=True)
class Adaptation:
    """The robot's own convention, and the one that the public models were trained in."""

    state: Callable[[Array], Array]
    """The robot's state (dims,) in the model's convention."""
    actions: Callable[[Array], Array]
    """The model's actions (horizon, dims) in the robot's convention."""
    given_actions: Callable[[Array], Array] | None = None
    """The way back: the robot's actions (rows, dims) in the model's convention.

    None: real-time chunking, which needs it, is refused.
    """


@dataclass(frozen=True)
class RobotSpec:
    """One robot: its observation, its state as the joined vectors, and its actions."""

    vectors: tuple[Vector, ...]
    images: tuple[Image, ...]
    action_dim: int
    adaptation: Adaptation | None = None
    fast_cameras: Mapping[str, str | None] | None = None
    """pi0-FAST's cameras in its order, each with ours, or None: a black image, not masked.

    None: those of `CAMERAS` that came.
    """

    @property
    def state_dim(self) -> int:
        """Length of the state."""
        return sum(v.size for v in self.vectors)

    def state(self, observation: CheckedObservation) -> Array:
        """The vectors of `observation` in order, float64 (state_dim,), the robot's convention."""
        return np.concatenate([observation.vectors[key_name(v.path)] for v in self.vectors])

    def cameras(self) -> Cameras:
        """The cameras of an openpi model, which have the same names for every robot."""
        named = {image.camera: image for image in self.images}
        return {camera: named[camera] for camera in CAMERAS if camera in named}

    def fast_pictures(self, pictures: Mapping[str, Picture]) -> dict[str, Picture]:
        """pi0-FAST's images of `pictures`, uint8 (H, W, 3) of one size, in its order."""
        if self.fast_cameras is None:
            return dict(pictures)
        black = np.zeros_like(next(iter(pictures.values())))
        return {
            camera: black if ours is None else pictures[ours]
            for camera, ours in self.fast_cameras.items()
        }
