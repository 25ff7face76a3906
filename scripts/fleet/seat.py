"""A seat: a Ray actor that holds one process. Commands and log lines pass here, never its data."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from scripts.local.forks import die_with

_ROOT = Path(__file__).parents[2]  # where our packages are imported from
_KEPT = 1000  # lines
_AT_ONCE = 200  # lines that one look returns
_FILE_BYTES = 5_000_000  # of a log file, of which there are two: the present and the one before
_LINE_BYTES = 2000
_READY = re.compile(r"\bready\b")
# Ray sets it to what an actor claims; our processes choose their threads themselves.
_NOT_PASSED_ON = ("OMP_NUM_THREADS",)


@dataclass(frozen=True)
class Look:
    """What a seat sees of its process. `lines` are those from number `after` on."""

    pid: int
    is_ready: bool
    exit_code: int | None
    lines: tuple[str, ...]
    after: int
    last_words: str


class LogFile:
    """A log of bounded size: when it is full, it becomes `NAME.1`, and a new one begins."""

    def __init__(self, path: Path, most_bytes: int = _FILE_BYTES) -> None:
        """Go on where an earlier one of this name ended."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._most = path, most_bytes
        self._file = path.open("ab")

    def write(self, line: bytes) -> None:
        """Add a line, whose end it has."""
        if self._file.tell() + len(line) > self._most:
            self._file.close()
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
            self._file = self._path.open("ab")
        self._file.write(line)
        self._file.flush()

    def close(self) -> None:
        """Write no more."""
        self._file.close()


class Seat:
    """Starts a process, watches it, collects what it writes, and asks it to end.

    To be used from the thread that made it: the kernel takes that thread's end for the parent's,
    and kills the process then. So no process outlives its seat, and no seat its machine's Ray.
    """

    def __init__(self, module: str, words: list[str], log: str) -> None:
        """Start `python -m module words...`, whose output goes to the file `log` as well."""
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        for name in _NOT_PASSED_ON:
            environment.pop(name, None)
        self._lines: deque[str] = deque(maxlen=_KEPT)
        self._written = 0  # lines so far
        self._is_ready = False
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=die_with(os.getpid()),
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(
            target=self._read, args=(self._process.stdout, LogFile(Path(log))), daemon=True
        )
        self._reader.start()

    def look(self, after: int = 0) -> Look:
        """The process's state, and the lines from number `after` on, as far as they are kept."""
        code = self._process.poll()
        if code is not None:
            self._reader.join(1.0)  # its last words; a child of it may hold the pipe open
        with self._lock:
            first = self._written - len(self._lines)
            start = max(after, first)
            lines = list(self._lines)[start - first :][:_AT_ONCE]
            words = next((line for line in reversed(self._lines) if line.strip()), "")
        return Look(self._process.pid, self._is_ready, code, tuple(lines), start, words)

    def drain(self) -> None:
        """Ask it to finish what it has in hand and to end."""
        if self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End it at once."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def _read(self, pipe: IO[bytes], file: LogFile) -> None:
        while line := pipe.readline(_LINE_BYTES):
            whole = line if line.endswith(b"\n") else line + b"\n"
            file.write(whole)
            text = whole.decode(errors="replace").rstrip("\n")
            with self._lock:
                self._lines.append(text)
                self._written += 1
            if not self._is_ready and _READY.search(text):
                self._is_ready = True
        file.close()
