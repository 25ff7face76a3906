"""What the robots of the transport benchmark send, and what they get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Observation = dict[str, Any]
Actions = NDArray[np.float32]
Picture = NDArray[np.uint8]
Answer = dict[str, Any]  # with `actions`, and what the peer says of its stages

HORIZON, ACTION_DIM = 50, 14
_DISCS = 12
_TEXTURE = 24.0  # standard deviations, in steps of 255: of the surface, and of the sensor's noise
_GRAIN = 1.2
_SQUARES = (2, 4, 8, 16, 32)  # pixels across, of the squares that the surface is made of
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
    """An observation laid out as `LAYOUTS[size]`, with pictures of a made-up scene and a prompt."""
    layout, rng = LAYOUTS[size], np.random.default_rng(0)
    images = {camera: _picture(layout.image, rng) for camera in layout.cameras}
    state = rng.random(layout.state, dtype=np.float32)
    return {**images, "state": state, "prompt": "pick up the cube"}


def _picture(shape: tuple[int, int, int], rng: np.random.Generator) -> Picture:
    """A rough table in slanting light with coloured discs on it, seen by a sensor with some noise.

    As compressible as the photograph of `benchmarks.codecs`: of 224 x 224 pixels JPEG leaves 31 KB
    at quality 95 and 13 at 75. A rendered scene keeps 8 and 5.
    """
    planes_first = shape[0] == 3
    height, width = shape[1:] if planes_first else shape[:2]
    down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    light = 90.0 + 70.0 * across + 30.0 * down
    picture = light[..., np.newaxis] * np.array([1.0, 0.9, 0.75])
    for _ in range(_DISCS):
        x, y, radius = rng.random(), rng.random(), rng.uniform(0.03, 0.12)
        inside = (across - x) ** 2 + (down - y) ** 2 < radius**2
        picture[inside] = 0.5 * picture[inside] + rng.uniform(0.0, 128.0, 3)
    picture += _roughness(height, width, rng)[..., np.newaxis]
    picture += rng.normal(0.0, _GRAIN, picture.shape)
    pixels = np.clip(picture, 0.0, 255.0).astype(np.uint8)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)) if planes_first else pixels


def _roughness(height: int, width: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Squares of all sizes, darker and brighter: as much of each size as of the next."""
    rough: NDArray[np.float64] = np.zeros((height, width))
    for side in _SQUARES:
        squares = rng.normal(size=(-(-height // side), -(-width // side)))
        rough += np.kron(squares, np.ones((side, side)))[:height, :width]
    rough *= _TEXTURE / len(_SQUARES) ** 0.5
    return rough


def label(size: str) -> str:
    """`libero 301 KB`, `camera 2.8 MB`."""
    count = LAYOUTS[size].bytes
    return f"{size} {count // 1000} KB" if count < 1e6 else f"{size} {count / 1e6:.1f} MB"
