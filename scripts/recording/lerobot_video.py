"""The video files of one camera in a LeRobot dataset: AV1, with all its episodes one after another.

Every second picture is a key frame, as LeRobot writes them, so that one picture is found fast. So
is an episode's first: Rerun cuts the file into episodes without decoding it, and only there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from scripts.recording.lerobot_statistics import Colours, Statistics

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import OutputContainer
    from av.video.stream import VideoStream

ENCODER, CODEC, PIXEL_FORMAT = "libsvtav1", "av1", "yuv420p"
# Two threads' worth of work at most; preset 10 encodes 230 pictures of 224 x 224 a second on one.
_OPTIONS = {"preset": "10", "crf": "30", "g": "2", "svtav1-params": "lp=2"}
_QUIET = {"SVT_LOG": "1"}  # errors only; it reads the environment


class VideoFile:
    """One file that is being written."""

    def __init__(self, path: Path, fps: int, height: int, width: int) -> None:
        """Begin a file of pictures of (height, width).

        Raises:
            OSError: it cannot be written.
        """
        import av

        for name, value in _QUIET.items():
            os.environ.setdefault(name, value)
        self.path = path
        self.frames = self.bytes = 0
        self._fps = fps
        path.parent.mkdir(parents=True, exist_ok=True)
        with _said_as_oserror(path):
            self._file: OutputContainer = av.open(str(path), "w")
        stream = self._file.add_stream(ENCODER, rate=fps, options=_OPTIONS)
        self._stream = cast("VideoStream", stream)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = PIXEL_FORMAT

    def add(self, pixels: NDArray[np.uint8], *, is_first: bool) -> None:
        """Encode one more picture, uint8 (H, W, 3); an episode's first becomes a key frame.

        Raises:
            OSError: it cannot be written.
        """
        import av

        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts, frame.time_base = self.frames, Fraction(1, self._fps)
        if is_first:
            frame.pict_type = av.video.frame.PictureType.I
        self._encode(frame)
        self.frames += 1

    def close(self) -> None:
        """Write the file to its end.

        Raises:
            OSError: it cannot be written.
        """
        self._encode(None)
        with _said_as_oserror(self.path):
            self._file.close()

    def abandon(self) -> None:
        """Let the file be as it is."""
        import av

        with contextlib.suppress(OSError, av.FFmpegError):
            self._stream.encode()  # an encoder that is dropped in the middle complains
        with contextlib.suppress(OSError, av.FFmpegError):
            self._file.close()

    def _encode(self, frame: VideoFrame | None) -> None:
        with _said_as_oserror(self.path):
            for packet in self._stream.encode(frame):
                self.bytes += packet.size
                self._file.mux(packet)


@contextlib.contextmanager
def _said_as_oserror(path: Path) -> Iterator[None]:
    """Turns an error of FFmpeg's, such as a full disk's, into Python's own."""
    import av

    try:
        yield
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


class EpisodePlace(NamedTuple):
    """Where an episode's pictures are.

    Attributes:
        file: the file's number.
        first: the number of its first picture there.
        end: the number behind its last.
        statistics: of its colours.
    """

    file: int
    first: int
    end: int
    statistics: Statistics


class CameraFiles:
    """All files of one camera: a new one begins with the first episode behind `largest` bytes."""

    def __init__(
        self, path: Callable[[int], Path], fps: int, height: int, width: int, largest: int
    ) -> None:
        """`path` names the file of a number."""
        self.colours = Colours()
        self._path, self._fps, self._size, self._largest = path, fps, (height, width), largest
        self._number = self._first = 0
        self._video: VideoFile | None = None
        self._episode = Colours()

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Add a picture to the episode.

        Raises:
            OSError: it cannot be written.
        """
        if self._video is None:
            self._video = VideoFile(self._path(self._number), self._fps, *self._size)
        self._video.add(pixels, is_first=self._video.frames == self._first)
        self._episode.add(pixels)

    def end_episode(self) -> EpisodePlace:
        """The pictures since the last episode, of which there is at least one, become one.

        Raises:
            OSError: it cannot be written.
        """
        assert self._video is not None
        place = EpisodePlace(self._number, self._first, self._video.frames, self._episode.told())
        self.colours.join(self._episode)
        self._episode, self._first = Colours(), self._video.frames
        if self._video.bytes >= self._largest:
            self.close()
            self._number, self._first = self._number + 1, 0
        return place

    def close(self) -> None:
        """Write the current file to its end.

        Raises:
            OSError: it cannot be written.
        """
        if self._video is not None:
            self._video.close()
            self._video = None

    def abandon(self) -> None:
        """Let the current file be as it is."""
        if self._video is not None:
            self._video.abandon()
            self._video = None


def described(fps: int, height: int, width: int) -> Mapping[str, Any]:
    """What `info.json` says of such a video."""
    return {
        "video.height": height,
        "video.width": width,
        "video.codec": CODEC,
        "video.pix_fmt": PIXEL_FORMAT,
        "video.fps": fps,
        "video.channels": 3,
        "has_audio": False,
        "is_depth_map": False,
    }
