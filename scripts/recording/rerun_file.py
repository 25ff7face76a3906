"""From recorded requests to a file for Rerun's viewer.

    robots/NAME/cameras/CAMERA        what it saw; arrays become JPEG files of quality 90
    robots/NAME/state/KEY             a line for each number
    robots/NAME/actions/until_cut     the actions of each chunk until the next chunk begins
    robots/NAME/actions/beyond_cut    those after it, which the robot has most likely not done
    robots/NAME/chunk                 each chunk whole, as a picture of its numbers
    robots/NAME/rows_until_cut        how many rows of a chunk lie before the next chunk
    robots/NAME/latency_ms/STAGE      where the time of each answer went, `total` among the stages
    robots/NAME/prompt, .../errors    texts

All of it has two timelines, `time` by the broker's clock and `request`, the number in the log; rows
of chunks lie in `time` alone, each a control step after the one before.

Memory: a few megabytes that Rerun collects before it writes, and the last chunk of each session
whose actions are not over.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from client.errors import BadObservation
from scripts.recording.exchange import Exchange
from scripts.recording.observation_parts import Picture, chunk_of, split
from scripts.recording.taken import refuse_taken

if TYPE_CHECKING:
    from rerun import RecordingStream, TextLogLevel

APPLICATION = "zmq-policy-broker"
SUFFIX = ".rrd"
TIME, REQUEST = "time", "request"
JPEG_QUALITY = 90
_FLUSH_EVERY = 100  # requests; that is also when a full disk is noticed
_MOST_SHOWN = 8  # robots in the arrangement that the viewer opens with
_TOTAL = "total"
_HARDLY = 1e-3  # of a control step: wall clocks as float64 are no more exact than 0.2 us


@dataclass(frozen=True)
class _Chunk:
    """The last chunk of a session: where it is cut is known when the next one comes."""

    path: str
    request: int
    at: float
    rows: NDArray[np.float32]


class RerunFile:
    """Writes one `.rrd` file. It appears under its name once it is whole."""

    def __init__(self, path: Path, *, control_hz: float, force: bool = False) -> None:
        """Begin a file.

        Args:
            path: where it is to be.
            control_hz: how many actions a second robots do.
            force: replace a file that is there.

        Raises:
            Taken: something is there that may not be replaced.
            OSError: it cannot be written.
        """
        import rerun

        refuse_taken_file(path, force)
        self._path, self._hz = path, control_hz
        self._unfinished = path.with_name(f".{path.name}.unfinished")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._unfinished.write_bytes(b"")  # so that what cannot be written is said as usual
        self._stream: RecordingStream = rerun.RecordingStream(APPLICATION)
        self._stream.save(self._unfinished)
        self._requests = 0
        self._chunks: dict[tuple[str, str, str], _Chunk] = {}
        self._lines: set[str] = set()
        self._cameras: dict[str, list[str]] = {}
        self._prompts: dict[str, str] = {}

    def add(self, exchange: Exchange) -> None:
        """Add a request with its answer.

        Raises:
            OSError: it cannot be written, as on a full disk.
        """
        import rerun

        number, self._requests = self._requests, self._requests + 1
        robot = exchange.robot or exchange.client[:8]
        path = f"robots/{rerun.escape_entity_path_part(robot)}"
        self._cameras.setdefault(path, [])
        self._set_time(exchange.at, number)
        if exchange.observation is not None:
            self._add_observation(path, exchange)
        spent = {_TOTAL: 1e3 * (exchange.answered_at - exchange.at), **exchange.timing}
        for stage, milliseconds in spent.items():
            stage = rerun.escape_entity_path_part(stage)
            self._stream.log(f"{path}/latency_ms/{stage}", rerun.Scalars(milliseconds))
        self._add_chunk(path, number, exchange)
        if exchange.error is not None:
            self._set_time(exchange.answered_at, number)
            self._text(f"{path}/errors", ": ".join(exchange.error), rerun.TextLogLevel.ERROR)
        if self._requests % _FLUSH_EVERY == 0:
            self._end_chunks(exchange.at)
            self._flush()

    def close(self) -> None:
        """Write what is left, and give the file its name.

        Raises:
            OSError: it cannot be written.
        """
        self._end_chunks(None)
        self._stream.send_blueprint(_blueprint(self._cameras))
        self._flush()
        self._stream.disconnect()
        # Rerun tells of a full disk in its log alone when it writes the file's end.
        if not _has_end(self._unfinished):
            raise OSError(f"{self._path} could not be written to its end: is the disk full?")
        os.replace(self._unfinished, self._path)

    def abandon(self) -> None:
        """Remove what was written; nothing happens after `close`."""
        self._stream.disconnect()
        self._unfinished.unlink(missing_ok=True)

    def _add_observation(self, path: str, exchange: Exchange) -> None:
        import rerun

        parts = split(exchange.observation or {})
        for name, picture in parts.pictures.items():
            camera = f"{path}/cameras/{rerun.escape_entity_path_part(name)}"
            if camera not in self._cameras[path]:
                self._cameras[path].append(camera)
            try:
                picture.size()  # whether it is whole enough to be shown
            except BadObservation as error:
                self._text(f"{path}/errors", str(error), rerun.TextLogLevel.WARN)
                continue
            contents, media_type = _encoded(picture)
            image = rerun.EncodedImage(contents=contents, media_type=media_type)
            self._stream.log(camera, image)
        for name, vector in parts.vectors.items():
            self._numbers(f"{path}/state/{rerun.escape_entity_path_part(name)}", vector)
        if parts.prompt != self._prompts.get(path, ""):
            self._prompts[path] = parts.prompt
            self._text(f"{path}/prompt", parts.prompt, rerun.TextLogLevel.INFO)

    def _add_chunk(self, path: str, number: int, exchange: Exchange) -> None:
        import rerun

        rows = chunk_of(exchange.result)
        if rows is None:
            return
        key = (exchange.client, exchange.session, exchange.policy)
        before = self._chunks.pop(key, None)
        if before is not None:
            self._end_chunk(before, exchange.at)
            self._set_time(exchange.at, number)
        self._stream.log(f"{path}/chunk", rerun.Tensor(rows, dim_names=("row", "action")))
        self._chunks[key] = _Chunk(path, number, exchange.at, rows)

    def _end_chunks(self, now: float | None) -> None:
        """Write those chunks whose last action was due before `now`; None: all."""
        for key, chunk in list(self._chunks.items()):
            if now is None or chunk.at + len(chunk.rows) / self._hz < now:
                self._end_chunk(self._chunks.pop(key), None)

    def _end_chunk(self, chunk: _Chunk, next_at: float | None) -> None:
        """Write a chunk's actions, cut where the next one began."""
        import rerun

        count = len(chunk.rows)
        if next_at is not None:
            count = min(count, max(0, ceil((next_at - chunk.at) * self._hz - _HARDLY)))
        times = chunk.at + np.arange(len(chunk.rows)) / self._hz
        for name, rows in (("until_cut", slice(count)), ("beyond_cut", slice(count, None))):
            path, values = f"{chunk.path}/actions/{name}", chunk.rows[rows]
            if len(values):
                self._name_lines(path, values.shape[1])
                self._stream.send_columns(
                    path,
                    [rerun.TimeColumn(TIME, timestamp=times[rows])],
                    rerun.Scalars.columns(scalars=values),
                )
        self._set_time(chunk.at, chunk.request)
        self._stream.log(f"{chunk.path}/rows_until_cut", rerun.Scalars(count))

    def _set_time(self, at: float, number: int) -> None:
        self._stream.set_time(TIME, timestamp=at)
        self._stream.set_time(REQUEST, sequence=number)

    def _numbers(self, path: str, vector: NDArray[Any]) -> None:
        import rerun

        self._name_lines(path, len(vector))
        self._stream.log(path, rerun.Scalars(vector))

    def _name_lines(self, path: str, count: int) -> None:
        import rerun

        if path not in self._lines:
            self._lines.add(path)
            names = [str(number) for number in range(count)]
            self._stream.log(path, rerun.SeriesLines(names=names), static=True)

    def _text(self, path: str, text: str, level: TextLogLevel) -> None:
        import rerun

        self._stream.log(path, rerun.TextLog(text, level=level))

    def _flush(self) -> None:
        try:
            self._stream.flush()
        except RuntimeError as error:  # what Rerun raises when its file's thread has given up
            raise OSError(f"{self._path} cannot be written ({error}): is the disk full?") from error


def write_rerun(
    exchanges: Iterable[Exchange], path: Path, *, control_hz: float, force: bool = False
) -> int:
    """Write all exchanges into one file; returns how many there were. Without any there is none.

    Raises:
        Taken: something is there that may not be replaced.
        OSError: it cannot be written.
        ValueError: what reading the exchanges raises.
    """
    file = RerunFile(path, control_hz=control_hz, force=force)
    count = 0
    try:
        for exchange in exchanges:
            file.add(exchange)
            count += 1
        if count:
            file.close()
    finally:
        file.abandon()
    return count


def _encoded(picture: Picture) -> tuple[bytes, str]:
    """A picture's file and its media type."""
    if picture.array is None:
        kinds = {b"\xff\xd8": "image/jpeg", b"\x89P": "image/png", b"RI": "image/webp"}
        return picture.file, kinds.get(picture.file[:2], "image/jpeg")
    written = io.BytesIO()
    Image.fromarray(picture.array).save(written, "JPEG", quality=JPEG_QUALITY)
    return written.getvalue(), "image/jpeg"


def _has_end(path: Path) -> bool:
    """Whether a file has the footer that Rerun writes last."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 64))
        return b"RRF2FOOT" in file.read()


def _blueprint(cameras: dict[str, list[str]]) -> Any:
    """How the viewer is arranged: a tab for each robot, pictures above, numbers below."""
    import rerun.blueprint as arrange

    tabs = []
    for path, names in list(cameras.items())[:_MOST_SHOWN]:
        pictures = [arrange.Spatial2DView(origin=name) for name in names]
        lines = [
            arrange.TimeSeriesView(origin=f"{path}/{name}", name=name)
            for name in ("state", "actions", "latency_ms")
        ]
        texts = arrange.TextLogView(contents=[f"{path}/errors", f"{path}/prompt"], name="texts")
        rows = [arrange.Horizontal(*each) for each in (pictures, lines) if each]
        tabs.append(arrange.Vertical(*rows, texts, name=path.removeprefix("robots/")))
    return arrange.Blueprint(arrange.Tabs(*tabs), collapse_panels=True)


def refuse_taken_file(path: Path, force: bool) -> None:
    """Nothing happens where a file may be written.

    Raises:
        Taken: something is there; with `force`: something that is no file.
    """
    refuse_taken(path, force, path, "file")
