"""Sending camera images compressed: which arrays are images, and how they are marked.

An observation may hold an image as a camera delivers it, the bytes of a JPEG, PNG or WebP file;
they travel as they are, and the worker decodes them. For arrays `ImageEncoder` does the same on the
robot and puts in their place

    {"__image__": <the file's bytes>, "layout": "hwc"}      of an array (H, W, 3)
    {"__image__": <the file's bytes>, "layout": "chw"}      of an array (3, H, W)

so that any policy gets an array of the shape that the robot's had. The file's first bytes tell
whether it is a JPEG, PNG or WebP. Large files travel as large arrays do, without being copied.

Pillow is imported when it is first needed; it releases the interpreter's lock while it works, so
the cameras of an observation are encoded at once.
"""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable

import numpy as np

from client.body import LARGE

CODECS = ("raw", "jpeg", "png")
MARK, LAYOUT = "__image__", "layout"
LAYOUTS = ("hwc", "chw")

# How many pixels share one colour, as Pillow numbers it: docs/image_codecs.md compares them.
FULL_CHROMA, HALF_CHROMA = 0, 2  # 4:4:4 and 4:2:0
# The fastest of zlib's levels: the others take several times longer to save a few percent.
_PNG_LEVEL = 1
_LONGEST_SIDE = 65_500  # what a JPEG file can declare
_MOST_THREADS = 4


class ImageEncoder:
    """Replaces the uint8 images of an observation by compressed ones."""

    def __init__(self, codec: str = "raw", jpeg_quality: int = 95) -> None:
        """Choose how images are compressed.

        Args:
            codec: `raw` leaves images as they are, `jpeg` loses a little, `png` nothing.
            jpeg_quality: from 1 to 100, as Pillow and libjpeg count it.

        Raises:
            ValueError: an argument is out of its range.
        """
        if codec not in CODECS:
            raise ValueError(f"image_codec is {codec!r}: {', '.join(CODECS)} are known")
        if not 1 <= jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality is {jpeg_quality}: 1 to 100")
        self._encode_one: Callable[[Any], bytes] | None = {
            "raw": None,
            "jpeg": lambda pixels: encode_jpeg(pixels, int(jpeg_quality)),
            "png": encode_png,
        }[codec]
        self._threads: ThreadPoolExecutor | None = None

    def encode(self, observation: Any) -> Any:
        """The observation with each image, uint8 (H, W, 3) or (3, H, W), compressed.

        Images are found in nested dicts, at any depth. Everything else, also images of other
        dtypes and shapes, stays as it is, and so does the observation that was given.
        """
        if self._encode_one is None or not isinstance(observation, dict):
            return observation
        images: list[tuple[dict[str, Any], Any]] = []  # where each belongs, and what it is
        replaced = _copy_with_images(observation, images)
        if not images:
            return observation
        for (parent, key), encoded in zip(images, self._encode_all([p[k] for p, k in images])):
            parent[key] = encoded
        return replaced

    def close(self) -> None:
        """End the threads; `encode` would start them again."""
        if self._threads is not None:
            self._threads.shutdown(wait=False)
        self._threads = None

    def _encode_all(self, images: list[Any]) -> list[dict[str, Any]]:
        cores = usable_cores()
        if len(images) == 1 or cores == 1:  # other threads would only take turns with this one
            return [self._mark(image) for image in images]
        if self._threads is None:
            count = min(_MOST_THREADS, cores)
            self._threads = ThreadPoolExecutor(count, thread_name_prefix="image encoder")
        others = [self._threads.submit(self._mark, image) for image in images[1:]]
        # This thread does its share.
        return [self._mark(images[0]), *(other.result() for other in others)]

    def _mark(self, image: Any) -> dict[str, Any]:
        encode_one = self._encode_one
        if encode_one is None:
            raise RuntimeError("the raw codec encodes nothing")
        layout = "chw" if image.shape[0] == 3 else "hwc"
        data: Any = encode_one(image)
        return {MARK: np.frombuffer(data, np.uint8) if len(data) >= LARGE else data, LAYOUT: layout}


def encode_jpeg(pixels: Any, quality: int, chroma: int = FULL_CHROMA) -> bytes:
    """A JPEG file of an image, uint8 (H, W, 3) or (3, H, W)."""
    return _save(pixels, "JPEG", quality=quality, subsampling=chroma)


def encode_png(pixels: Any) -> bytes:
    """A PNG file of an image, uint8 (H, W, 3) or (3, H, W)."""
    return _save(pixels, "PNG", compress_level=_PNG_LEVEL)


def usable_cores() -> int:
    """How many cores this thread may run on; all, where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def is_image(value: Any) -> bool:
    """Whether a codec takes it: an array, uint8 (H, W, 3) or (3, H, W), with any pixels."""
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3:
        return False
    if min(value.shape) < 1 or max(value.shape) > _LONGEST_SIDE:
        return False
    return 3 in (value.shape[0], value.shape[2])


def _copy_with_images(tree: dict[Any, Any], images: list[Any]) -> dict[Any, Any]:
    """A copy of the nested dicts; (dict, key) of each image in it is added to `images`."""
    copy = dict(tree)
    for key, value in copy.items():
        if isinstance(value, dict):
            copy[key] = _copy_with_images(value, images)
        elif is_image(value):
            images.append((copy, key))
    return copy


def _save(pixels: Any, form: str, **options: Any) -> bytes:
    from PIL import Image as Pillow

    file = io.BytesIO()
    if pixels.shape[0] == 3:  # planes take a third of the time of pixels copied out of them
        picture = Pillow.merge("RGB", [Pillow.fromarray(plane) for plane in pixels])
    else:
        picture = Pillow.fromarray(np.ascontiguousarray(pixels))
    picture.save(file, form, **options)
    return file.getvalue()
