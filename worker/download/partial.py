"""One file while it is downloaded: which ranges are there, so that a cut costs no more than one."""

import json
import os
from pathlib import Path
from threading import Lock

from worker.download.store import RemoteFile

RANGE_BYTES = 16 * 2**20

Range = tuple[int, int]
"""The first byte, and the first behind it."""


class PartialFile:
    """The content of `file` at `path`, and at `journal` which object and ranges it has so far.

    The journal's first line names the object; each further line is the start of a finished range.
    """

    def __init__(self, file: RemoteFile, path: Path, journal: Path) -> None:
        self.file, self.path, self._journal_path = file, path, journal
        self._lock = Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        journal.parent.mkdir(parents=True, exist_ok=True)
        done = self._earlier()
        ranges = range(0, file.size, RANGE_BYTES)
        self.missing = [(s, min(s + RANGE_BYTES, file.size)) for s in ranges if s not in done]
        self._left = len(self.missing)
        self._file = path.open("r+b" if done else "w+b")
        self._file.truncate(file.size)
        self._journal = journal.open("a" if done else "w")
        if not done:
            self._note(self._title())

    @property
    def missing_bytes(self) -> int:
        """What is still to come."""
        return sum(end - start for start, end in self.missing)

    def write(self, start: int, data: bytes) -> None:
        """Put `data` in its place; from any thread."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self._file.fileno(), view, start)
            start, view = start + count, view[count:]

    def finish(self, piece: Range) -> bool:
        """Note that `piece` is all there; true if it was the last. From any thread."""
        with self._lock:
            self._note(str(piece[0]))
            self._left -= 1
            return self._left == 0

    def close(self) -> None:
        """Close both files; what was downloaded stays."""
        self._file.close()
        self._journal.close()

    def forget(self) -> None:
        """Remove what was downloaded: it is not what it should be."""
        self.close()
        self._journal_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _earlier(self) -> set[int]:
        """Starts of the ranges that an earlier download of the same object finished."""
        try:
            title, *starts = self._journal_path.read_text().split("\n")
        except (OSError, UnicodeDecodeError):
            return set()
        if title != self._title() or not self.path.is_file():
            return set()
        # What follows the last newline was not written completely.
        return {int(start) for start in starts[:-1] if start.isdecimal()}

    def _title(self) -> str:
        return json.dumps([self.file.key, self.file.size, self.file.etag, RANGE_BYTES])

    def _note(self, line: str) -> None:
        self._journal.write(f"{line}\n")
        self._journal.flush()
