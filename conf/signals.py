"""How both processes handle signals, depending on how each was started.

`nohup` has a program ignore SIGHUP, and a shell's `&` may have it ignore SIGINT; the program must
not undo that. SIGHUP has two meanings: a service manager or a person sends it to have files read
again, and the kernel or a shell sends it when the terminal is closed, to end the program.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


def handle(number: signal.Signals, handler: Callable[[str], object]) -> None:
    """Have a signal call `handler` with its name, unless it was ignored from the start."""
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda *_: handler(number.name))


def end_while_starting() -> None:
    """Have SIGINT and SIGTERM end the process at once, until other handlers are installed.

    So does SIGHUP if the terminal was closed. If not, it is ignored: no file was read yet.
    """
    terminal = Terminal()

    def end(name: str) -> None:
        os.write(2, f"stopped: received {name} while starting\n".encode())
        os._exit(0)

    def end_if_closed(name: str) -> None:
        if terminal.is_closed():
            end(name)

    for number in (signal.SIGINT, signal.SIGTERM):
        handle(number, end)
    handle(signal.SIGHUP, end_if_closed)


@contextmanager
def terminable() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP end the program as an exit does, so that it cleans up first.

    The exit code is a shell's, 128 and the signal's number. One that is ignored stays ignored, and
    afterwards the handlers are those from before.
    """

    def end(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, end)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Terminal:
    """The terminal that this process was started from, if there was one."""

    def __init__(self) -> None:
        self._was_there = _has_terminal()

    def is_closed(self) -> bool:
        """Whether there was a terminal that is gone now."""
        return self._was_there and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))  # each process's own
    except OSError:
        return False
    return True
