"""One turn of one robot: asks back to back or at a rate, and says how long each answer took."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.transport.observations import Answer

UNTIMED = 2  # requests before the clock starts: other peers had their turns since the last


@dataclass(frozen=True)
class Turn:
    """What a robot is told to do."""

    rate_hz: float  # 0: back to back
    seconds: float
    offset: float = 0.0  # share of a period by which this robot is later than the first, 0 to 1
    split: bool = False  # report each request's stages as well


@dataclass(frozen=True)
class Taken:
    """What it reports."""

    latencies_us: list[float]
    elapsed_s: float
    cpu_s: float  # of the robot's whole process, for the timed requests
    stages_ms: list[dict[str, float]] = field(default_factory=list)  # of each, if asked for


def take(
    ask: Callable[[], Answer],
    turn: Turn,
    split: Callable[[Answer, float], dict[str, float]] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Taken:
    """Make requests until the turn's time is over, and one at least.

    A paced robot asks at the ticks of its clock. One whose answer came after the next tick waits
    for the one after it, as a control loop does: it does not catch up. `split` is the peer's, if
    it has one.
    """
    for _ in range(UNTIMED):
        ask()
    latencies: list[float] = []
    stages_ms: list[dict[str, float]] = []
    cpu, began = time.process_time(), clock()
    period = 1.0 / turn.rate_hz if turn.rate_hz else 0.0
    first, now = began + turn.offset * period, began
    while now < began + turn.seconds or not latencies:
        if period:
            due = first + math.ceil((now - first) / period) * period
            sleep(max(0.0, due - now))
            now = clock()
            if now >= began + turn.seconds and latencies:
                break
        answer = ask()
        done = clock()
        latencies.append((done - now) * 1e6)
        if turn.split and split is not None:
            stages_ms.append(split(answer, (done - now) * 1e3))
            done = clock()  # the next request did not wait for this
        now = done
    return Taken(latencies, now - began, time.process_time() - cpu, stages_ms)
