"""Who used the processor while robots asked: the broker's threads, and other programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.neighbours import Neighbours
from scripts.local.processes import Process


class Watch:
    """From its creation on; `processes` are ours, `broker` one of them."""

    def __init__(self, processes: Sequence[Process], broker: Process | None) -> None:
        self._processes, self._broker = processes, broker
        self._since, self._own_s = time.monotonic(), self._used()
        self._threads = threads_s(broker)
        self._neighbours = Neighbours()

    def others_cores(self) -> float:
        """Cores that programs other than ours kept busy."""
        return self._neighbours.cores(self._used() - self._own_s)

    def broker_cores(self) -> dict[str, float]:
        """Cores that each of the broker's threads used."""
        passed_s = time.monotonic() - self._since
        return {
            thread: (used - self._threads.get(thread, 0.0)) / passed_s
            for thread, used in threads_s(self._broker).items()
        }

    def _used(self) -> float:
        return time.process_time() + sum(process.cpu_seconds() for process in self._processes)


def threads_s(process: Process | None) -> dict[str, float]:
    """CPU seconds of a process's threads, by name and id; none for no process."""
    if process is None:
        return {}
    used = {}
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        name = (task / "comm").read_text().strip()
        # The first number is nanoseconds on a processor, see Documentation/scheduler/sched-stats.
        used[f"{name} {task.name}"] = int((task / "schedstat").read_text().split()[0]) / 1e9
    return used
