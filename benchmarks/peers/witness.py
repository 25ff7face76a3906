"""`python -m benchmarks.peers.witness MODULE HOST PORT SIZE RATE_HZ TIMEOUT_S`: asks on and on.

Whatever comes, an answer or an error, is noted. A client that cannot go on after an error is made
anew, as a careful robot's program would. The first line out says that the server answered; from
then on each line in is answered with all requests so far, the one under way included: a client
that hangs does not keep its witness from saying so.
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
    connect: Callable[[], Callable[[], Answer]], goes_on: bool, rate_hz: float, noted: list[Asked]
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
        except Exception as error:  # noqa: BLE001 - to see which is what we are here for
            asked.error = type(error).__name__
            ask = ask if goes_on else None
        asked.took_s = time.monotonic() - asked.at_s


def main(module: str, host: str, port: int, size: str, rate_hz: float, timeout_s: float) -> None:
    """Ask from a thread, tell from this one."""
    goes_on = getattr(importlib.import_module(f"benchmarks.peers.{module}"), "GOES_ON", False)
    noted: list[Asked] = []
    threading.Thread(
        target=ask_on,
        args=(lambda: connected(module, host, port, size, timeout_s), goes_on, rate_hz, noted),
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
