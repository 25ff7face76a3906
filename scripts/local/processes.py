"""Broker and workers as child processes that never outlive the one that started them.

Used by the demo and by tests. Each child leads a session of its own, so that Ctrl-C in a terminal
reaches only the parent, which then stops the children in order; and the kernel is asked to kill
each child when its parent dies, so that not even `kill -9` of the parent leaves one behind.
"""

from __future__ import annotations

import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

READY_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 3.0
POLL_S = 0.02

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_READY = re.compile(r"\bready\b")
_LIBC = ctypes.CDLL(None, use_errno=True)


class ProcessError(RuntimeError):
    """A child ended, or did not become ready; the message has the end of its log."""


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


def die_with(parent: int) -> Callable[[], None]:
    """For `preexec_fn`, which runs between fork and exec: die when the process `parent` dies."""

    def ask_kernel() -> None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the kernel knew
            os._exit(1)

    return ask_kernel


@contextmanager
def signals_wait() -> Iterator[None]:
    """Signals that come inside are handled on leaving: to be used around a fork.

    What their handlers raise in Python's at-fork hooks would be printed and lost. Their being
    blocked would not do: another thread may take them, and the child would inherit it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread only
        return
    came: list[tuple[int, FrameType | None]] = []
    # The one that a person sends is given back last, when all others are in place again.
    numbers: tuple[int, ...] = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    handlers: dict[int, Callable[[int, FrameType | None], object]] = {}
    for number in numbers:
        if callable(handler := signal.getsignal(number)):  # not ignored, nor left to the kernel
            handlers[number] = handler
    try:
        for number in reversed(handlers):
            signal.signal(number, lambda *given: came.append(given))
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for number, frame in came:
            handlers[number](number, frame)


class Process:
    """One `python -m MODULE key=value ...`, its output going to a log file."""

    def __init__(self, name: str, module: str, arguments: Sequence[str], log: Path) -> None:
        """Start it. `log` is the file for its stdout and stderr, overwritten."""
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._child = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with(os.getpid()),
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._child.poll() is None

    def cpu_seconds(self) -> float:
        """CPU time that its threads have used so far; ProcessError when it ended."""
        # What clock_getcpuclockid(3) returns for a process: no library call is needed for it.
        try:
            return time.clock_gettime((~self.pid << 3) | 2)
        except OSError as error:
            raise ProcessError(f"{self.name} has no CPU clock: {error}") from error

    def said_ready(self) -> bool:
        """Whether the word `ready` is in its log."""
        return _READY.search(self.log.read_text(errors="replace")) is not None

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once it said `ready`; ProcessError when it ends first or takes too long."""
        give_up = time.monotonic() + timeout_s
        while not self.said_ready():
            if not self.is_alive():
                raise ProcessError(f"{self.name} ended: {self.last_words()}")
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
        """SIGKILL, and wait until it is gone; its exit code (-9 unless it had ended before)."""
        if self.is_alive():
            self._child.kill()
        return self._child.wait()

    def wait(self, timeout_s: float) -> int | None:
        """Its exit code, or None if it still runs after `timeout_s`."""
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None


class Processes:
    """A context in which children are started; leaving it stops them all, the newest first.

    To be used from the main thread: the kernel takes the end of the thread that started a child
    for the end of its parent.
    """

    def __init__(self, logs: Path) -> None:
        """`logs` is the folder for the log files; it is made when missing."""
        logs.mkdir(parents=True, exist_ok=True)
        self._logs = logs
        self._started: list[Process] = []

    def start(self, name: str, module: str, *arguments: str) -> Process:
        """Start `python -m module arguments...`, logging to `NAME.log`."""
        log = self._logs / f"{name.replace(' ', '-')}.log"
        with signals_wait():
            process = Process(name, module, arguments, log)
            self._started.append(process)
        return process

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to those that still run after STOP_TIMEOUT_S."""
        try:
            for process in reversed(self._started):
                process.terminate()
            give_up = time.monotonic() + STOP_TIMEOUT_S
            for process in self._started:
                process.wait(max(0.0, give_up - time.monotonic()))
        finally:  # a second Ctrl-C ends the waiting, not the stopping
            for process in self._started:
                process.kill()
            self._started.clear()

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
