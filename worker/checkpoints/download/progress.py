"""The progress of something long: a bar on a terminal, else a line in the log now and then."""

import logging
import sys
import threading
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

logger = logging.getLogger(__name__)

LOG_EVERY_S = 10.0


class Progress:
    """Counts the bytes of a task that is named `what`, from any thread; a context manager."""

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._done = what, total, done
        self._lock = threading.Lock()
        self._said_at = time.monotonic()
        self._said_done = done
        self._bar = None
        if sys.stderr.isatty():
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(what, total=total, completed=done)

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """`count` more bytes are done."""
        if self._bar is not None:
            self._bar.advance(self._task, count)
            return
        with self._lock:
            self._done += count
            now = time.monotonic()
            passed = now - self._said_at
            if passed < LOG_EVERY_S:
                return
            rate = (self._done - self._said_done) / passed / 1e6
            self._said_at, self._said_done = now, self._done
        logger.info(
            "%s: %.1f of %.1f GB, %.0f %%, %.0f MB/s",
            self._what,
            self._done / 1e9,
            self._total / 1e9,
            100 * self._done / max(1, self._total),
            rate,
        )
