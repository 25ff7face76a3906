"""Decoding the compressed images of an observation, away from the thread that the policy runs on.

Two forms are understood: a file's bytes (JPEG, PNG or WebP, or a one-dimensional uint8 array of
them) where the policy says that it takes an image; and, anywhere, the mark that
`client.image_codecs` puts in the place of an array.

Before a pixel is decoded, the size that each file declares is checked: a few kilobytes can promise
gigabytes.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from client.body import Observation
from client.errors import BadObservation
from client.image_codecs import LAYOUT, LAYOUTS, MARK, usable_cores

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

Picture = npt.NDArray[np.uint8]
Path = tuple[Any, ...]
"""Keys from the outermost in; strings, from any sound robot."""

MAX_PIXELS = 10_000_000  # of one image: a 4K camera has 8.3 million
MAX_PIXELS_TOGETHER = 40_000_000  # of one observation: 120 MB once decoded
_MAX_DEPTH = 32  # of the nested dicts in which images are looked for
_MOST_THREADS = 4
_BEGINNINGS = {b"\xff\xd8\xff": "JPEG", b"\x89PNG\r\n\x1a\n": "PNG"}
_RIFF, _WEBP = b"RIFF", b"WEBP"
# 8 bits a channel or fewer. 16-bit images (depth, most often) would lose half of what they hold.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"})


class _Encoded(NamedTuple):
    path: Path
    data: bytes | memoryview
    layout: str


def is_encoded(value: Any) -> bool:
    """Whether it may be a compressed image: bytes, or a one-dimensional uint8 array of them."""
    if isinstance(value, np.ndarray):
        return value.ndim == 1 and value.dtype.char == "B"
    return isinstance(value, bytes | bytearray | memoryview)


def decode_image(data: Any, key: str, layout: str = "hwc") -> Picture:
    """One compressed image as uint8 (H, W, 3), or (3, H, W) where the layout is "chw".

    Args:
        data: the bytes of a JPEG, PNG or WebP file of 8 bits a channel, grey and palette included;
            transparency is dropped. Of an animation the first frame.
        key: what it is called in the error.

    Raises:
        BadObservation: not such a file, damaged, or larger than `MAX_PIXELS`.
    """
    return _laid_out(_pixels(_opened(_bytes_of(data), key), key), layout)


class ImageDecoder:
    """Decodes observations on threads of its own, several images at once."""

    def __init__(self, layouts: Mapping[Path, str] | None = None) -> None:
        """`layouts`: where the policy takes images, and whether as "hwc" or as "chw"."""
        self._layouts = dict(layouts or {})
        count = min(_MOST_THREADS, usable_cores())
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="image decoder")

    def decode(
        self, observation: Observation, done: Callable[[Observation | BadObservation], None]
    ) -> bool:
        """Have an observation's images decoded.

        Returns:
            False if there are none: nothing was done. Else `done` is called later, from another
            thread, with a copy that holds arrays in their places, (H, W, 3) or (3, H, W), or
            with what is wrong with one of them.
        """
        found: list[_Encoded] = []
        self._find(observation, (), found)
        if not found:
            return False
        task = _Task(observation, len(found), done)
        self._threads.submit(self._begin, found, task)
        return True

    def close(self) -> None:
        """End the threads; what was begun is given up."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, found: list[_Encoded], task: _Task) -> None:
        """Check what all files declare, then decode them."""
        try:
            files, total = [], 0
            for encoded in found:
                if encoded.layout not in LAYOUTS:
                    raise BadObservation(
                        f"{key_name(encoded.path)}: expected an image's layout to be one of"
                        f" {', '.join(LAYOUTS)}, got {encoded.layout!r:.40}"
                    )
                file = _opened(encoded.data, key_name(encoded.path))
                total += file.width * file.height
                files.append(file)
            if total > MAX_PIXELS_TOGETHER:
                raise BadObservation(
                    f"{key_name(found[-1].path)}: the images together have {total} pixels,"
                    f" {MAX_PIXELS_TOGETHER} are allowed"
                )
        except BadObservation as error:
            task.fail(error)
            return
        for encoded, file in zip(found[1:], files[1:], strict=True):
            self._threads.submit(task.run, encoded, file)
        task.run(found[0], files[0])

    def _find(self, tree: Mapping[Any, Any], at: Path, found: list[_Encoded]) -> None:
        # Every request comes through here, and most hold nothing to find.
        for key, value in tree.items():
            kind = type(value)
            if kind is dict:
                if MARK in value:
                    found.append(_marked(value, (*at, key)))
                elif len(at) < _MAX_DEPTH:
                    self._find(value, (*at, key), found)
            elif kind is str or (kind is np.ndarray and value.ndim != 1):
                continue
            elif is_encoded(value):
                path = (*at, key)
                if path in self._layouts:
                    found.append(_Encoded(path, _bytes_of(value), self._layouts[path]))


class _Task:
    """One observation whose images are being decoded; the last one, or the first error, ends it."""

    def __init__(
        self,
        observation: Observation,
        images: int,
        done: Callable[[Observation | BadObservation], None],
    ) -> None:
        self._observation = observation
        self._pictures: dict[Path, Picture] = {}
        self._left = images
        self._done = done
        self._lock = threading.Lock()

    def run(self, encoded: _Encoded, file: ImageFile) -> None:
        """Decode one image."""
        try:
            picture = _pixels(file, key_name(encoded.path))
        except BadObservation as error:
            self.fail(error)
            return
        picture = _laid_out(picture, encoded.layout)
        with self._lock:
            self._pictures[encoded.path] = picture
            self._left -= 1
            is_last = self._left == 0
        if is_last:
            self._done(_replaced(self._observation, self._pictures))

    def fail(self, error: BadObservation) -> None:
        """Give the whole observation up."""
        with self._lock:
            is_first, self._left = self._left > 0, -1
        if is_first:
            self._done(error)


def key_name(path: Path) -> str:
    """A key as messages name it: nested keys joined by `/`."""
    return "/".join(map(str, path))


def _marked(value: Mapping[Any, Any], path: Path) -> _Encoded:
    data, layout = value[MARK], value.get(LAYOUT, "hwc")
    # If these are not bytes and a layout, the robot is told so when the file is opened.
    return _Encoded(path, _bytes_of(data) if is_encoded(data) else b"", str(layout))


def _bytes_of(value: Any) -> bytes | memoryview:
    return np.ascontiguousarray(value).data if isinstance(value, np.ndarray) else value


def _replaced(tree: Mapping[Any, Any], pictures: Mapping[Path, Picture]) -> dict[Any, Any]:
    """The nested dicts with some members replaced; those without any are the same objects."""
    copy = dict(tree)
    below: dict[Any, dict[Path, Picture]] = {}
    for path, picture in pictures.items():
        if len(path) == 1:
            copy[path[0]] = picture
        else:
            below.setdefault(path[0], {})[path[1:]] = picture
    for key, inner in below.items():
        copy[key] = _replaced(copy[key], inner)
    return copy


def _opened(data: bytes | memoryview, key: str) -> ImageFile:
    """A file whose declared size and kind have been checked; nothing of it is decoded yet."""
    from PIL import Image

    beginning = bytes(data[:12])
    kind = next((k for start, k in _BEGINNINGS.items() if beginning.startswith(start)), None)
    if kind is None and beginning[:4] == _RIFF and beginning[8:] == _WEBP:
        kind = "WEBP"
    if kind is None:
        raise BadObservation(
            f"{key}: expected a JPEG, PNG or WebP image, got {len(data)} bytes that begin with"
            f" {beginning!r}"
        )
    try:
        file: ImageFile = Image.open(io.BytesIO(data), formats=(kind,))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadObservation(f"{key}: {error}") from error
    except Exception as error:  # damaged files raise whatever their reader meets
        raise _damaged(key, kind, error) from error
    if file.width * file.height > MAX_PIXELS:
        raise BadObservation(
            f"{key}: a {kind} image of {file.width} x {file.height} pixels,"
            f" {MAX_PIXELS} are allowed"
        )
    if file.mode not in _MODES:
        raise BadObservation(
            f"{key}: expected 8 bits a channel, got a {kind} image of Pillow's mode {file.mode}"
        )
    return file


def _pixels(file: ImageFile, key: str) -> Picture:
    try:
        return np.array(file if file.mode == "RGB" else file.convert("RGB"))
    except Exception as error:  # damaged files raise whatever their reader meets
        raise _damaged(key, file.format or "", error) from error


def _laid_out(picture: Picture, layout: str) -> Picture:
    return picture.transpose(2, 0, 1) if layout == "chw" else picture


def _damaged(key: str, kind: str, error: Exception) -> BadObservation:
    reason = str(error).partition("\n")[0][:100]
    return BadObservation(f"{key}: a damaged {kind} image ({type(error).__name__}: {reason})")
