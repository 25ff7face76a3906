"""How much of the machine others use while we measure: figures from a busy one mean little."""

from __future__ import annotations

import os
import time
from pathlib import Path

BUSY = 0.1  # cores; above this the figures are not to be trusted

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_WORKING = (0, 1, 2, 5, 6)  # user, nice, system, irq, softirq; see proc(5) on /proc/stat


class Neighbours:
    """Counts from its creation on."""

    def __init__(self) -> None:
        self._since, self._busy_s = time.monotonic(), busy_s()

    def cores(self, own_s: float) -> float:
        """How many cores others kept busy, where we ourselves used `own_s` of CPU time."""
        busy = busy_s() - self._busy_s - own_s
        return max(0.0, busy / (time.monotonic() - self._since))


def busy_s() -> float:
    """CPU seconds that this machine has worked since it was started."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    return sum(int(fields[index]) for index in _WORKING) / _TICKS_PER_S
