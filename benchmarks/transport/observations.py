"""What the robots of the transport benchmark send, and what they get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Observation = dict[str, Any]
Actions = NDArray[np.float32]
Answer = dict[str, Any]  # with `actions`, and what the peer says of its stages

HORIZON, ACTION_DIM = 50, 14
ACTIONS: Actions = np.zeros((HORIZON, ACTION_DIM), np.float32)


@dataclass(frozen=True)
class Layout:
    """The arrays of one observation. `state` is the number of float32 values."""

    cameras: tuple[str, ...]
    image: tuple[int, int, int]  # uint8
    state: int

    @property
    def bytes(self) -> int:
        """Of all its arrays together."""
        height, width, colours = self.image
        return len(self.cameras) * height * width * colours + 4 * self.state


LAYOUTS = {
    "libero": Layout(("image", "wrist_image"), (224, 224, 3), 8),
    "aloha": Layout(("cam_high", "cam_left_wrist", "cam_right_wrist"), (3, 224, 224), 14),
    "camera": Layout(("cam_high", "cam_left_wrist", "cam_right_wrist"), (480, 640, 3), 14),
}


def make_observation(size: str) -> Observation:
    """An observation laid out as `LAYOUTS[size]`, with images of noise and a prompt."""
    layout, rng = LAYOUTS[size], np.random.default_rng(0)
    images = {
        camera: rng.integers(0, 256, layout.image, dtype=np.uint8) for camera in layout.cameras
    }
    state = rng.random(layout.state, dtype=np.float32)
    return {**images, "state": state, "prompt": "pick up the cube"}


def label(size: str) -> str:
    """`libero 301 KB`, `camera 2.8 MB`."""
    count = LAYOUTS[size].bytes
    return f"{size} {count // 1000} KB" if count < 1e6 else f"{size} {count / 1e6:.1f} MB"
