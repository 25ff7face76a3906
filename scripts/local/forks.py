"""What a parent does around a fork, so that no child outlives it and no Ctrl-C is lost."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_LIBC = ctypes.CDLL(None, use_errno=True)


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

    What their handlers raise in Python's at-fork hooks would be printed and lost. Blocking the
    signals would not help: another thread may take them, and the child would inherit the mask.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers run in the main thread only
        return
    came: list[tuple[int, FrameType | None]] = []
    # SIGINT, which a person sends, is given back last, when all others are in place again.
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
