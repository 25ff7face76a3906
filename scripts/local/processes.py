"""Child processes that never outlive the process that started them.

Used by the demo, the benchmarks and the tests. Each child leads a session of its own, so that
Ctrl-C in a terminal reaches only the parent, which then stops the children in order; and the
kernel is asked to kill each child when its parent dies, so that not even `kill -9` of the parent
leaves one behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from scripts.local.forks import die_with, signals_wait

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 3.0
POLL_S = 0.02

_READY = re.compile(r"\bready\b")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


class ProcessError(RuntimeError):
    """A child ended, stayed silent or did not become ready; the message has the end of its log."""


def free_ports(count: int) -> list[int]:
    """`count` different TCP ports that were free on the loopback interface a moment ago."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


class Process:
    """One child process.

    Its stdout and stderr go to a log file. With `talks`, stdout is left out of the log: stdin and
    stdout carry messages, each a line of JSON.

    Attributes:
        name: what messages and errors call it.
        log: the file of its output.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
        talks: bool = False,
    ) -> None:
        """Start it. `environment` is added to ours; `log` is overwritten."""
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if talks else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talks else output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                text=True,
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._child.pid

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._child.poll() is None

    def check(self) -> None:
        """Do nothing while it runs.

        Raises:
            ProcessError: it has ended.
        """
        if not self.is_alive():
            raise self._ended()

    def cpu_seconds(self) -> float:
        """CPU time in seconds that all its threads have used so far.

        Raises:
            ProcessError: it has ended.
        """
        try:
            # What clock_getcpuclockid(3) returns for a process: nanoseconds, not clock ticks.
            return time.clock_gettime((~self.pid << 3) | 2)
        except OSError:
            raise self._ended() from None

    def resident_mb(self) -> float:
        """Resident memory in MB of 10^6 bytes.

        Raises:
            ProcessError: it has ended.
        """
        self.check()
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * _PAGE_MB

    def place(self, cores: Collection[int]) -> None:
        """Let all its threads run on these cores only; threads to come inherit it."""
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            os.sched_setaffinity(int(thread), cores)

    def tell(self, message: Mapping[str, Any]) -> None:
        """Send a message to a process that `talks`.

        Raises:
            ProcessError: it has ended.
        """
        pipe = self._pipe(self._child.stdin)
        try:
            pipe.write(json.dumps(message) + "\n")
            pipe.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def answer(self, timeout_s: float) -> dict[str, Any]:
        """The next message of a process that `talks`.

        Raises:
            ProcessError: it ended, or said nothing for `timeout_s` seconds.
        """
        pipe = self._pipe(self._child.stdout)
        if not select.select([pipe], [], [], timeout_s)[0]:
            raise ProcessError(f"{self.name} is silent for {timeout_s:.0f} s: {self.last_words()}")
        line = pipe.readline()
        if not line:
            self._child.wait()
            raise self._ended()
        message: dict[str, Any] = json.loads(line)
        return message

    def said_ready(self) -> bool:
        """Whether the word `ready` is in its log."""
        return _READY.search(self.log.read_text(errors="replace")) is not None

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once it said `ready`.

        Raises:
            ProcessError: it ended before, or needs more than `timeout_s` seconds.
        """
        give_up = time.monotonic() + timeout_s
        while not self.said_ready():
            self.check()
            if time.monotonic() > give_up:
                raise ProcessError(
                    f"{self.name} was not ready after {timeout_s:.0f} s: {self.last_words()}"
                )
            time.sleep(POLL_S)

    def last_words(self, lines: int = 5) -> str:
        """The exit code if it ended, and the last lines of its log."""
        code = self._child.poll()
        tail = "\n".join(self.log.read_text(errors="replace").strip().splitlines()[-lines:])
        return f"exit code {code}, {self.log}:\n{tail}"

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM)."""
        if self.is_alive():
            self._child.terminate()

    def kill(self) -> int:
        """Send SIGKILL and wait; returns its exit code (-9 unless it had ended before)."""
        if self.is_alive():
            self._child.kill()
        code = self._child.wait()
        for pipe in (self._child.stdin, self._child.stdout):
            # The last message to it may still be in the pipe's buffer.
            with contextlib.suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()
        return code

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, or None if it still runs after `timeout_s`."""
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None

    def _pipe(self, pipe: IO[str] | None) -> IO[str]:
        if pipe is None:
            raise RuntimeError(f"{self.name} was started without talks=True")
        return pipe

    def _ended(self) -> ProcessError:
        return ProcessError(f"{self.name} ended: {self.last_words()}")


class Processes:
    """A context in which children are started; leaving it stops them all, the newest first.

    To be used from the main thread: the kernel takes the end of the thread that started a child
    for the end of its parent.

    Attributes:
        all: those that were started, the oldest first.
    """

    def __init__(self, logs: Path) -> None:
        """`logs` is the folder for the log files; it is made when missing."""
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self.all: list[Process] = []

    def start(self, name: str, module: str, *arguments: str) -> Process:
        """Start `python -m module arguments...`, logging to `NAME.log`."""
        return self.start_command(name, [sys.executable, "-m", module, *arguments])

    def start_command(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        talks: bool = False,
    ) -> Process:
        """Start any program, logging to `NAME.log`; the arguments are those of `Process`."""
        log = self._logs / f"{name.replace(' ', '-').replace('/', '-')}.log"
        with signals_wait():
            process = Process(name, command, log, environment=environment, talks=talks)
            self.all.append(process)
        return process

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to those that still run after STOP_TIMEOUT_S."""
        try:
            for process in reversed(self.all):
                process.terminate()
            give_up = time.monotonic() + STOP_TIMEOUT_S
            for process in self.all:
                process.wait(max(0.0, give_up - time.monotonic()))
        finally:  # a second Ctrl-C ends the waiting, not the stopping
            for process in self.all:
                process.kill()
            self.all.clear()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
