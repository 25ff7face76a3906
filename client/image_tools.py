"""Making camera images small before they travel: bytes instead of floats, 224 pixels a side.

The results are those of the public openpi client, bit for bit, so that a policy sees the same
picture whichever client sent it. Pillow is imported when it is first needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt


def convert_to_uint8(img: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Floats in [0, 1] as bytes, truncating 255 * x; any other dtype is returned as it came."""
    if np.issubdtype(img.dtype, np.floating):
        return (255 * img).astype(np.uint8)
    return img


def resize_with_pad(
    images: npt.NDArray[np.uint8], height: int, width: int
) -> npt.NDArray[np.uint8]:
    """Scale uint8 `images` (..., H, W, C) to fit `height` x `width`, centred on black.

    The sides keep their ratio (bilinear); images that have the size already are returned as they
    came.

    Raises:
        ValueError: one side would shrink to nothing.
    """
    if images.shape[-3:-1] == (height, width):
        return images
    flat = images.reshape((-1, *images.shape[-3:]))
    resized = np.stack([_resize_one(image, height, width) for image in flat])
    return resized.reshape(images.shape[:-3] + resized.shape[-3:])


def _resize_one(image: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    from PIL import Image

    ratio = max(image.shape[1] / width, image.shape[0] / height)
    new_height, new_width = int(image.shape[0] / ratio), int(image.shape[1] / ratio)
    picture = Image.fromarray(image).resize((new_width, new_height), Image.Resampling.BILINEAR)
    canvas = np.zeros((height, width, *image.shape[2:]), dtype=np.uint8)
    top, left = (height - new_height) // 2, (width - new_width) // 2
    canvas[top : top + new_height, left : left + new_width] = np.asarray(picture)
    return canvas
