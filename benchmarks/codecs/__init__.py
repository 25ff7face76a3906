"""What compressing a robot's images does to its actions, and what it costs and saves.

`python -m benchmarks.codecs` measures it, `docs/image_codecs.md` holds the tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from client.image_codecs import FULL_CHROMA, HALF_CHROMA, encode_jpeg, encode_png, is_image
from worker.images import decode_image

Picture = npt.NDArray[np.uint8]
QUALITIES = (75, 85, 90, 95, 98)


@dataclass(frozen=True)
class Codec:
    """One way to compress an image, and its name in the tables."""

    name: str
    encode: Callable[[Picture], bytes]

    def through(self, picture: Picture) -> Picture:
        """What a policy sees of `picture`, uint8 (H, W, 3) or (3, H, W), in the same layout."""
        if picture.shape[0] == 3:
            return self.through(picture.transpose(1, 2, 0)).transpose(2, 0, 1)
        return decode_image(self.encode(picture), self.name)


def _jpeg(quality: int, chroma: int) -> Codec:
    form = {FULL_CHROMA: "4:4:4", HALF_CHROMA: "4:2:0"}[chroma]
    return Codec(f"JPEG {quality}, {form}", lambda picture: encode_jpeg(picture, quality, chroma))


CODECS = (
    Codec("PNG", encode_png),
    *(_jpeg(quality, chroma) for quality in QUALITIES for chroma in (FULL_CHROMA, HALF_CHROMA)),
)


def with_images(observation: dict[str, Any], change: Callable[[Picture], Any]) -> Any:
    """The observation with each image changed; what an image is, the client decides."""
    return {
        key: with_images(value, change)
        if isinstance(value, dict)
        else change(value)
        if is_image(value)
        else value
        for key, value in observation.items()
    }
