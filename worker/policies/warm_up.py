"""Blank observations, with which a policy warms up before a robot asks it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.config import IMAGE_SIZE
from worker.robots.observations import Image
from worker.robots.robot import RobotSpec


def camera_sets(cameras: Mapping[str, Image]) -> list[list[Image]]:
    """One set for every number of cameras that the robot may send, all of them last."""
    required = [image for image in cameras.values() if not image.optional]
    optional = [image for image in cameras.values() if image.optional]
    return [[*required, *optional[:count]] for count in range(len(optional) + 1)]


def blank_observation(
    robot: RobotSpec, images: Sequence[Image], prompt: str | None
) -> dict[str, Any]:
    """What `robot` might send, in zeros, with these images and those that it has to send."""
    observation: dict[str, Any] = {"prompt": prompt or "warm up"}
    for vector in robot.vectors:
        _put(observation, vector.path, np.zeros(vector.size, np.float32))
    for image in robot.images:
        if image in images or not image.optional:
            _put(observation, image.path, np.zeros((3, IMAGE_SIZE, IMAGE_SIZE), np.uint8))
    return observation


def _put(tree: dict[str, Any], path: Sequence[str], value: npt.NDArray[Any]) -> None:
    """Set `value` at a nested key."""
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value
