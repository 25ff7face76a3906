"""A random observation in the form of each robot: which keys to send, of what shape and dtype."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from client.body import Observation

PIXELS = 224


def _image(rng: np.random.Generator) -> NDArray[np.uint8]:
    """(224, 224, 3), height x width x colours."""
    return rng.integers(0, 256, (PIXELS, PIXELS, 3), dtype=np.uint8)


def _image_chw(rng: np.random.Generator) -> NDArray[np.uint8]:
    """(3, 224, 224), colours first."""
    return rng.integers(0, 256, (3, PIXELS, PIXELS), dtype=np.uint8)


def _vector(rng: np.random.Generator, size: int) -> NDArray[np.float32]:
    """(size,) between 0 and 1."""
    return rng.random(size, dtype=np.float32)


def _aloha(rng: np.random.Generator) -> Observation:
    cameras = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
    return {
        "state": _vector(rng, 14),
        "images": {camera: _image_chw(rng) for camera in cameras},
        "prompt": "fold the towel",
    }


def _aloha_sim(rng: np.random.Generator) -> Observation:
    return {"state": _vector(rng, 14), "images": {"cam_high": _image_chw(rng)}}


def _droid(rng: np.random.Generator) -> Observation:
    return {
        "observation/exterior_image_1_left": _image(rng),
        "observation/wrist_image_left": _image(rng),
        "observation/joint_position": _vector(rng, 7),
        "observation/gripper_position": _vector(rng, 1),
        "prompt": "pick up the fork",
    }


def _libero(rng: np.random.Generator) -> Observation:
    return {
        "observation/image": _image(rng),
        "observation/wrist_image": _image(rng),
        "observation/state": _vector(rng, 8),
        "prompt": "put the bowl on the plate",
    }


EXAMPLES: dict[str, Callable[[np.random.Generator], Observation]] = {
    "aloha": _aloha,
    "aloha_sim": _aloha_sim,
    "droid": _droid,
    "libero": _libero,
}


def make_example(env: str, seed: int | None = None) -> Observation:
    """A random observation that a worker with `env=ENV` takes.

    Images are uint8, everything else float32. A real robot sends its own pictures, resized with
    `client.image_tools.resize_with_pad`.

    Raises:
        KeyError: `env` is none of EXAMPLES.
    """
    return EXAMPLES[env](np.random.default_rng(seed))
