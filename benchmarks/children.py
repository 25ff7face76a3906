"""Processes that are told what to do line by line, pinned to cores, and whose cost is measured."""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from scripts.local.processes import ProcessError, die_with, signals_wait

_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6
_LAST_LINES = 5


class Child:
    """One process. Its stderr goes to a log; stdin and stdout carry a line of JSON a message."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str]
    ) -> None:
        """Start it. `environment` is added to ours; `log` is overwritten."""
        self.name, self.log = name, log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **environment},
                text=True,
                start_new_session=True,  # Ctrl-C in a terminal reaches us alone, and we stop it
                preexec_fn=die_with(os.getpid()),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send a message; ProcessError if it has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ProcessError(self.last_words()) from None

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """Its next message; ProcessError if it ends or stays silent."""
        stdout = self._process.stdout
        assert stdout is not None
        if not select.select([stdout], [], [], timeout_s)[0]:
            raise ProcessError(f"{self.name} is silent for {timeout_s:.0f} s: {self.last_words()}")
        line = stdout.readline()
        if not line:
            self._process.wait()
            raise ProcessError(self.last_words())
        message: dict[str, Any] = json.loads(line)
        return message

    def check(self) -> None:
        """ProcessError if it has ended."""
        if self._process.poll() is not None:
            raise ProcessError(self.last_words())

    def last_words(self) -> str:
        """The exit code, if it has ended, and the end of its log."""
        lines = self.log.read_text(errors="replace").strip().splitlines()[-_LAST_LINES:]
        return "\n".join((f"{self.name}: exit code {self._process.poll()}, {self.log}:", *lines))

    def place(self, cores: Collection[int]) -> None:
        """Let all its threads run on these cores only; threads to come inherit it."""
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            os.sched_setaffinity(int(thread), cores)

    def cpu_s(self) -> float:
        """CPU time that it has used; ProcessError if it has ended."""
        try:
            # What clock_getcpuclockid(3) returns for a process: nanoseconds, not clock ticks.
            return time.clock_gettime((~self.pid << 3) | 2)
        except OSError:
            raise ProcessError(self.last_words()) from None

    def resident_mb(self) -> float:
        """Resident memory in MB of 10^6 bytes."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * _PAGE_MB

    def kill(self) -> None:
        """End it at once: nothing that it holds is worth keeping."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            # What it was last told may still be in the pipe's buffer.
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


class Children:
    """A context that ends all that were started in it."""

    def __init__(self, logs: Path) -> None:
        """`logs` is the folder for the log files; it is made when missing."""
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self.all: list[Child] = []

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Child:
        """Start one; its log is `NAME.log`."""
        log = self._logs / f"{name.replace(' ', '-').replace('/', '-')}.log"
        with signals_wait():
            child = Child(name, command, log, environment or {})
            self.all.append(child)
        return child

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for child in self.all:
            child.kill()
        self.all.clear()
