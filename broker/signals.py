"""Signals as this process was started: what was ignored stays ignored, and whose terminal it has.

`nohup` ignores SIGHUP and a shell's `&` may ignore SIGINT before they start a program: it must
not bring them back. SIGHUP has two meanings. From a service manager or a person it says "read
your files again"; when a terminal is closed, the kernel or the shell sends it to say "end".
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def handle(number: signal.Signals, handler: Callable[[str], object]) -> None:
    """Have a signal call `handler` with its name, unless it was ignored from the start."""
    if signal.getsignal(number) is not signal.SIG_IGN:
        signal.signal(number, lambda *_: handler(number.name))


def end_while_starting() -> None:
    """Have signals that ask for an end be obeyed at once, until other handlers are there.

    SIGHUP is one of them when the terminal was closed; else the files are still to be read.
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


class Terminal:
    """The terminal that this process was started from, if there was one."""

    def __init__(self) -> None:
        self._was_there = _has_terminal()

    def is_closed(self) -> bool:
        """Was there one, and is it gone?"""
        return self._was_there and not _has_terminal()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))  # that of whoever opens it
    except OSError:
        return False
    return True
