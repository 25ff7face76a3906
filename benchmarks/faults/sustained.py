"""Many clients for a minute: without faults, and with a worker killed and replaced every 5 s."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import Figure
from client import ZmqPolicyClient
from scripts.local.deployment import Deployment, Place, await_ready
from scripts.local.load import RIGHT, Habits, Outcome, Robot
from scripts.local.processes import Processes
from scripts.local.timing import percentile

CLIENTS, WORKERS, INFERENCE_S = 64, 4, 0.02
KILL_EVERY_S = 5.0
ALLOWED = {"WorkerLost"}  # what the two-attempt rule may answer when workers are killed
TIMES_P50 = 5.0
FLAT_KB_S = 5.0
PERIODS_S = (0.0, 0.5)  # back to back; and 128 requests a second, where 200 could be done
# libzmq fills two chunks of 256 frames for every connection before it uses them again, and the
# process grows until all have: 170 requests of each client.
WARM_UP_S = 90.0
_SAMPLE_S = 0.25
_PAGE_KB = os.sysconf("SC_PAGE_SIZE") / 1024


@dataclass(frozen=True)
class Run:
    """What one run has shown."""

    outcomes: list[Outcome]
    kills: int
    slope_kb_s: float  # of the broker's resident memory
    resident_mb: float

    @property
    def took_ms(self) -> list[float]:
        """Of the requests that were answered."""
        return [each.took_s * 1e3 for each in self.outcomes if each.kind == RIGHT]

    @property
    def errors(self) -> Counter[str]:
        """How many of each type."""
        return Counter(each.kind for each in self.outcomes if each.kind != RIGHT)


def sustained(logs: Path, seconds: float, progress: Callable[[], None]) -> list[Figure]:
    """Four runs of `seconds` each: back to back and paced, each without and with deaths.

    Before each pace its robots ask for `WARM_UP_S`, but not if `seconds` are so few that this is
    only for trying out; then the slope of the memory has no bar.
    """
    for_real = seconds >= WARM_UP_S / 2
    figures: list[Figure] = []
    with Processes(logs) as processes:
        stage = Deployment(processes, WORKERS, ["policy=noop", f"policy.time_s={INFERENCE_S}"])
        stage.wait_ready()
        with ZmqPolicyClient("127.0.0.1", stage.port) as client:
            for period_s in PERIODS_S:
                await_ready(client, WORKERS)
                with Crowd(stage.port, period_s) as crowd:
                    time.sleep(WARM_UP_S if for_real else 0.0)
                    calm = _run(stage, crowd, seconds, kill_every_s=0.0)
                    progress()
                    killing = _run(stage, crowd, seconds, KILL_EVERY_S)
                progress()
                figures += _figures(period_s, calm, killing, FLAT_KB_S if for_real else None)
    return figures


class Crowd:
    """All the clients. A context: they ask until it is left."""

    def __init__(self, port: int, period_s: float) -> None:
        self.outcomes: list[Outcome] = []
        self._over = threading.Event()
        habits = Habits(period_s, (10.0,), sides=(64,), check=_is_null)
        self._robots = [
            Robot(number, port, 0, habits, self._has_more, self.outcomes.append)
            for number in range(CLIENTS)
        ]

    def back_between(self, start: float, end: float) -> list[Outcome]:
        """What came back between two moments."""
        return [outcome for outcome in list(self.outcomes) if start < outcome.ended <= end]

    def _has_more(self) -> bool:
        return not self._over.is_set()

    def __enter__(self) -> Crowd:
        for robot in self._robots:
            robot.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for robot in self._robots:
            robot.join()


def _figures(period_s: float, calm: Run, killing: Run, flat: float | None) -> list[Figure]:
    p50 = percentile(50)(calm.took_ms)
    pace = f"every {period_s:g} s" if period_s else "back to back"
    title = f"{CLIENTS} clients {pace}, {WORKERS} workers of {INFERENCE_S * 1e3:.0f} ms"
    forbidden = sum(count for name, count in killing.errors.items() if name not in ALLOWED)
    return [
        Figure(f"{title}: answered", len(calm.took_ms)),
        Figure("  errors", calm.errors.total(), "", 0),
        Figure("  p50", p50, "ms"),
        Figure("  p99", percentile(99)(calm.took_ms), "ms"),
        Figure("  broker's memory grows by", calm.slope_kb_s, "KB/s", flat),
        Figure("  broker's memory", calm.resident_mb, "MB"),
        Figure(f"{title}, one killed every {KILL_EVERY_S:g} s: answered", len(killing.took_ms)),
        Figure("  killed", killing.kills),
        Figure("  errors that two attempts allow", killing.errors.total() - forbidden),
        Figure("  other errors", forbidden, "", 0),
        Figure("  p50", percentile(50)(killing.took_ms), "ms"),
        Figure("  p99", percentile(99)(killing.took_ms), "ms", TIMES_P50 * p50),
        Figure("  broker's memory grows by", killing.slope_kb_s, "KB/s", flat),
        Figure("  broker's memory", killing.resident_mb, "MB"),
    ]


def _run(stage: Deployment, crowd: Crowd, seconds: float, kill_every_s: float) -> Run:
    dice = random.Random(0)
    memory: list[tuple[float, float]] = []
    started, kills = time.monotonic(), 0
    while (passed := time.monotonic() - started) < seconds:
        memory.append((passed, resident_kb(stage.broker)))
        if kill_every_s and passed > (kills + 1) * kill_every_s:
            victim = dice.choice(stage.workers)
            victim.kill()
            victim.start()
            kills += 1
        time.sleep(_SAMPLE_S)
    outcomes = crowd.back_between(started, time.monotonic())
    return Run(outcomes, kills, _slope(memory), memory[-1][1] / 1024)


def _is_null(observation: dict[str, Any], result: dict[str, Any]) -> bool:
    actions = result["actions"]
    return bool(actions.ndim == 2 and actions.size and not actions.any())


def resident_kb(place: Place) -> float:
    """Resident memory of a process, in KiB."""
    pages = Path(f"/proc/{place.process.pid}/statm").read_text().split()[1]
    return int(pages) * _PAGE_KB


def _slope(memory: list[tuple[float, float]]) -> float:
    """KiB a second by least squares."""
    times, sizes = np.array(memory).T
    return float(np.polyfit(times, sizes, 1)[0])
