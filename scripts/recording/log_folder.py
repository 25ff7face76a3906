"""The folder of a recording: logs one after another, together within a bound."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.recording.exchange import Exchange
from scripts.recording.request_log import SUFFIX, LogWriter

_FILES = 8  # that a full folder holds, so that an eighth is lost when the oldest is removed
_LARGEST_FILE = 256_000_000


class LimitReached(Exception):
    """The recording has as many bytes as it may have."""


class LogFolder:
    """Writes exchanges into logs that are named by time and number.

    Only files of this recording count, and only they are ever removed.
    """

    def __init__(
        self, folder: Path, about: Mapping[str, Any], *, max_bytes: int, rotate: bool
    ) -> None:
        """Make the folder, if it is not there, and the first log in it.

        `rotate`: remove the oldest log when there are `max_bytes`, instead of ending.

        Raises:
            OSError: it cannot be made or written; `LogFull` where there is no room.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.bytes = 0  # of all that were written, the removed ones included
        self.exchanges = 0
        self._about, self._max_bytes, self._rotate = about, max_bytes, rotate
        self._file_bytes = min(_LARGEST_FILE, max_bytes // _FILES)
        self._started = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        self._files: deque[tuple[Path, int]] = deque()  # complete ones, with their bytes
        self._number = 0
        self._log = self._next()

    def write(self, exchange: Exchange) -> None:
        """Keep an exchange.

        Raises:
            LimitReached: it was kept, and nothing more may be.
            LogFull: there is no room for it.
            client.errors.BadObservation: it holds what no log can.
        """
        self.bytes += self._log.write(exchange)
        self.exchanges += 1
        if self._log.bytes < self._file_bytes:
            return
        self._files.append((self._log.path, self._log.bytes))
        kept = sum(size for _, size in self._files)
        if kept + self._file_bytes > self._max_bytes:
            if not self._rotate:
                raise LimitReached(
                    f"it has {kept / 1e6:.1f} MB, and another file would pass its limit of "
                    f"{self._max_bytes / 1e6:.1f} MB (--max-gb; --rotate removes the oldest)"
                )
            oldest, _ = self._files.popleft()
            oldest.unlink(missing_ok=True)
        self._log.close("it goes on in the next file")
        self._log = self._next()

    def dropped(self, count: int) -> None:
        """Note that so many messages were lost before this point.

        Raises:
            LogFull: there is no room for the note.
        """
        self._log.dropped(count)

    def close(self, reason: str) -> None:
        """End the last log."""
        self._log.close(reason)

    def _next(self) -> LogWriter:
        while True:
            self._number += 1
            path = self.folder / f"{self._started}-{self._number:04}{SUFFIX}"
            try:
                return LogWriter(path, self._about)
            except FileExistsError:  # another recording began in the same second
                continue
