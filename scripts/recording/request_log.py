r"""The log file of requests: a first line that names the format, and records behind it.

    zmq-policy-broker request log 1\n
    [length of the data, crc32 of the data, crc32 of these two] data
    ...

The three numbers have four bytes each, little-endian. The data are a body of the wire
(`client.body`) with all arrays inline: `{"about": {...}}` comes first and says how it was recorded,
`{"exchange": {...}}` is one request and its answer, `{"dropped": count}` says that so many messages
before it (a request or an answer each) were lost, and `{"end": reason}` is the last one of a log
that was ended as it should.

A record is written whole or not at all. Where a process or its machine died while it wrote, the
last record may be cut off: the reader stops before it and says so. Any other damage is an error.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from client.body import decode_body, encode_body
from client.errors import PolicyError
from scripts.recording.exchange import Exchange, from_tree, to_tree

logger = logging.getLogger(__name__)

SUFFIX = ".requests"
_NAME = b"zmq-policy-broker request log "
MAGIC = _NAME + b"1\n"
_HEAD = struct.Struct("<III")
_LONGEST = 2**31  # bytes of one record: more than any broker passes on


class NotALog(ValueError):
    """The file is no request log, or one of a later version."""


class NotBegun(NotALog):
    """The file is empty, or ends within its first line: a recorder was about to write that."""


class DamagedLog(ValueError):
    """A record in the middle of a log is not as it was written; those before it were read."""


class LogFull(OSError):
    """Nothing more can be written, as on a full disk; what was written before is whole."""


class LogWriter:
    """Writes a new log. Not thread-safe."""

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        """Make the file, readable by its user only; `about` says how it is recorded.

        Raises:
            OSError: it cannot be made, or is there already.
            LogFull: there is no room for its beginning.
        """
        self.path = path
        self.bytes = 0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        try:
            self._append(MAGIC)
            self._record({"about": dict(about)})
        except BaseException:
            self._file.close()
            path.unlink()
            raise

    def write(self, exchange: Exchange) -> int:
        """Append an exchange; returns its bytes in the file.

        Raises:
            LogFull: there is no room for it. The file ends with the record before.
            client.errors.BadObservation: it holds what no message can.
        """
        return self._record({"exchange": to_tree(exchange)})

    def dropped(self, count: int) -> None:
        """Note that so many messages before this point were lost.

        Raises:
            LogFull: there is no room for the note.
        """
        self._record({"dropped": count})

    def close(self, reason: str = "") -> None:
        """End the log, and say why; where there is no room to say it, the log is whole without."""
        if self._file.closed:
            return
        with contextlib.suppress(LogFull):
            self._record({"end": reason})
        with contextlib.suppress(OSError):  # what can be kept is kept already
            os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close("" if kind is None else kind.__name__)

    def _record(self, tree: dict[str, Any]) -> int:
        data = encode_body(tree, buffers=False)[0]
        numbers = struct.pack("<II", len(data), zlib.crc32(data))
        head = _HEAD.pack(len(data), zlib.crc32(data), zlib.crc32(numbers))
        self._append(head + data)
        return len(head) + len(data)

    def _append(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self.bytes)
                self._file.seek(self.bytes)
            raise LogFull(
                error.errno, f"no room to write ({error.strerror})", str(self.path)
            ) from error
        self.bytes += len(data)


class LogReader:
    """Reads a log once, from its beginning to its end.

    Attributes:
        about: how it was recorded, as its writer said.
        dropped: messages (a request or an answer each) that were lost, as far as it was read.
        end: why the recording ended; None where that was not reached, or was never written.
        cut_off: bytes of a last record that was not written whole.
        offset: where in the file the exchange that was yielded last begins, for `exchanges_at`.
    """

    def __init__(self, path: Path) -> None:
        """Open a log.

        Raises:
            OSError: it cannot be read.
            NotALog: it is something else.
        """
        self.path = path
        self.about: dict[str, Any] = {}
        self.dropped = 0
        self.end: str | None = None
        self.cut_off = self.offset = self._size = 0
        self._file: BinaryIO = path.open("rb")
        with self._file:
            self._check_first_line()

    def __iter__(self) -> Iterator[Exchange]:
        """The exchanges, in the order of their answers.

        Raises:
            DamagedLog: a record is not as it was written.
        """
        with self.path.open("rb") as self._file:
            self._size = os.fstat(self._file.fileno()).st_size
            number, start = 0, self._file.seek(len(MAGIC))
            while (tree := self._next(number)) is not None:
                number += 1
                self.offset, start = start, self._file.tell()
                try:
                    found = from_tree(tree["exchange"]) if "exchange" in tree else None
                    self.about = tree.get("about", self.about)
                    self.dropped += tree.get("dropped", 0)
                    self.end = tree.get("end", self.end)
                except (PolicyError, TypeError) as error:
                    raise self._damaged(number, str(error)) from error
                if found is not None:
                    yield found

    def exchanges_at(self, offsets: Iterable[int]) -> Iterator[Exchange]:
        """The exchanges that begin at these places, which were `offset` of a reader of this log.

        Raises:
            DamagedLog: at one of them there is none.
        """
        with self.path.open("rb") as self._file:
            self._size = os.fstat(self._file.fileno()).st_size
            for offset in offsets:
                self._file.seek(offset)
                tree = self._next(0) or {}
                try:
                    yield from_tree(tree["exchange"])
                except (KeyError, PolicyError) as error:
                    raise self._damaged(0, f"no exchange begins at byte {offset}") from error

    def _check_first_line(self) -> None:
        line = self._file.read(len(MAGIC))
        if line == MAGIC:
            return
        if line.startswith(_NAME):
            raise NotALog(
                f"{self.path} is a request log of another version than this program reads: "
                f"{line[len(_NAME) :].decode('ascii', 'replace').strip()} instead of 1"
            )
        kind = NotBegun if MAGIC.startswith(line) else NotALog
        raise kind(f"{self.path} is no request log: those are made by `python -m scripts.record`")

    def _next(self, number: int) -> dict[str, Any] | None:
        """The next record's tree; None at the end, or before what was cut off."""
        start = self._file.tell()
        head = self._file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            self.cut_off = len(head)
            return None
        length, checksum, of_both = _HEAD.unpack(head)
        if zlib.crc32(head[:8]) != of_both or not 0 < length <= _LONGEST:
            if self._is_blank(start):
                return None
            raise self._damaged(number, "its head is not as it was written")
        if start + _HEAD.size + length > self._size:
            self.cut_off = self._size - start
            return None
        data = self._file.read(length)
        if zlib.crc32(data) != checksum:
            raise self._damaged(number, "its bytes are not as they were written")
        try:
            return decode_body([data])
        except PolicyError as error:
            raise self._damaged(number, str(error)) from error

    def _is_blank(self, start: int) -> bool:
        """Whether nothing but zeros follows: a machine that loses power leaves such an end."""
        self._file.seek(start)
        while block := self._file.read(1 << 20):
            if block.strip(b"\0"):
                return False
        self.cut_off = self._size - start
        return True

    def _damaged(self, number: int, why: str) -> DamagedLog:
        return DamagedLog(
            f"{self.path} is damaged near its byte {self._file.tell()}: record {number} cannot be "
            f"read, {why}. The records before it are whole"
        )


def read(path: str | os.PathLike[str]) -> Iterator[Exchange]:
    """All exchanges of a log, or of all logs in a folder by their names.

    A log whose last record was cut off is read to the record before, and a warning says so. Left
    out of a folder are logs that a recorder with --rotate removes meanwhile, or has just begun.

    Raises:
        OSError: a file cannot be read.
        NotALog: the file is no log, or the folder holds none.
        DamagedLog: a record is not as it was written; those before it were yielded.
    """
    for log in files(path):
        try:
            reader = LogReader(log)
            yield from reader
        except (FileNotFoundError, NotBegun):
            if log == Path(path):
                raise
        else:
            warn_of_cut(reader)


def warn_of_cut(reader: LogReader) -> None:
    """Say if a log that was read did not end with a whole record."""
    if reader.cut_off:
        logger.warning(
            "%s was cut off: its last %d bytes are no whole record and are left out",
            reader.path,
            reader.cut_off,
        )


def files(path: str | os.PathLike[str]) -> list[Path]:
    """The log itself, or the logs of a folder by their names, which is by time.

    Raises:
        NotALog: there are none in the folder.
    """
    given = Path(path)
    if not given.is_dir():
        return [given]
    found = sorted(given.glob(f"*{SUFFIX}"))
    if not found:
        raise NotALog(f"{given} holds no request log: their names end with {SUFFIX}")
    return found
