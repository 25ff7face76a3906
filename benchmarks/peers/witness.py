"""A robot that asks again and again and notes what it gets; it runs until it is killed.

    python -m benchmarks.peers.witness MODULE HOST PORT SIZE RATE_HZ TIMEOUT_S

It notes every answer and every error. After an error, a client that cannot be used any more is
replaced by a new one, as in a careful robot's program. The first line on stdout says that the
server has answered. From then on, each line on stdin is answered with all requests so far, even
the one that is under way: the thread that writes is not the one that asks, so a client that hangs
is reported too.
"""

from __future__ import annotations

import importlib
import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from benchmarks.peers.robot import connected, say
from benchmarks.transport.observations import Answer


@dataclass
class Asked:
    """One request. `at_s` is the system's monotonic clock, the same in all its processes."""

    at_s: float
    took_s: float | None = None  # None: still under way
    error: str = ""  # its type; empty: answered


def ask_on(
    connect: Callable[[], Callable[[], Answer]],
    survives_errors: bool,
    rate_hz: float,
    noted: list[Asked],
) -> None:
    """Ask at the ticks of a clock, noting each request; never returns."""
    ask: Callable[[], Answer] | None = connect()
    first = time.monotonic()
    while True:
        tick = math.ceil((time.monotonic() - first) * rate_hz)
        time.sleep(max(0.0, first + tick / rate_hz - time.monotonic()))
        asked = Asked(time.monotonic())
        noted.append(asked)
        try:
            ask = ask or connect()
            ask()
        except Exception as error:  # noqa: BLE001 - its type is what is measured
            asked.error = type(error).__name__
            ask = ask if survives_errors else None
        asked.took_s = time.monotonic() - asked.at_s


def main(module: str, host: str, port: int, size: str, rate_hz: float, timeout_s: float) -> None:
    """Ask from another thread, and report from this one."""
    survives_errors = getattr(
        importlib.import_module(f"benchmarks.peers.{module}"), "SURVIVES_ERRORS", False
    )
    noted: list[Asked] = []
    threading.Thread(
        target=ask_on,
        args=(
            lambda: connected(module, host, port, size, timeout_s),
            survives_errors,
            rate_hz,
            noted,
        ),
        daemon=True,
    ).start()
    while not noted:
        time.sleep(0.01)
    say({"connected": module})
    for _ in sys.stdin:
        say({"asked": [asdict(asked) for asked in list(noted)]})


if __name__ == "__main__":
    _module, _host, _port, _size, _rate_hz, _timeout_s = sys.argv[1:]
    main(_module, _host, int(_port), _size, float(_rate_hz), float(_timeout_s))
