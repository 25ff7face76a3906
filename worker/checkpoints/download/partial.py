"""One file while it is downloaded: which ranges are there, so that a cut costs one at most."""

import json
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from worker.checkpoints.download.store import RemoteFile

RANGE_BYTES = 16 * 2**20

Range = tuple[int, int]
"""The first byte, and the first behind it."""


class PartialFile:
    """The content of `file` at `path`; `journal` says of which object, and which ranges are there.

    The journal's first line names the object; each further line is the start of a finished range.
    Neither is kept open: there may be more files than a process may open.
    """

    def __init__(self, file: RemoteFile, path: Path, journal: Path) -> None:
        self.file, self.path, self._journal = file, path, journal
        self._lock = Lock()
        done = self._earlier()
        ranges = range(0, file.size, RANGE_BYTES)
        self.missing = [(s, min(s + RANGE_BYTES, file.size)) for s in ranges if s not in done]
        self._left = len(self.missing)
        if not done:
            path.parent.mkdir(parents=True, exist_ok=True)
            journal.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
            journal.write_text(f"{self._title()}\n")

    @property
    def missing_bytes(self) -> int:
        """Bytes that are still to come."""
        return sum(end - start for start, end in self.missing)

    def open_at(self, start: int) -> BinaryIO:
        """The content, to write a range that begins at `start`; unbuffered, for one thread."""
        file = self.path.open("r+b", buffering=0)
        file.seek(start)
        return file

    def finish(self, piece: Range) -> bool:
        """Note that `piece` is all there; true if it was the last. From any thread."""
        with self._lock:
            with self._journal.open("a") as journal:
                journal.write(f"{piece[0]}\n")
            self._left -= 1
            return self._left == 0

    def forget(self) -> None:
        """Remove what was downloaded: it is not what it should be."""
        self._journal.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _earlier(self) -> set[int]:
        """Starts of the ranges that an earlier download of the same object finished."""
        try:
            title, *starts = self._journal.read_text().split("\n")
            written = self.path.stat().st_size
        except (OSError, UnicodeDecodeError):
            return set()
        if title != self._title():
            return set()
        # What follows the last newline was not written completely.
        done = {int(start) for start in starts[:-1] if start.isdecimal()}
        return {s for s in done if min(s + RANGE_BYTES, self.file.size) <= written}

    def _title(self) -> str:
        return json.dumps([self.file.key, self.file.size, self.file.etag, RANGE_BYTES])
