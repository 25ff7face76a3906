"""How many robots and workers a broker's core carries: 10,000 and 500 of them, simulated.

    python -m benchmarks.capacity

The broker's real core, on simulated time: no sockets, no headers to decode, no images. Robots ask
at the pace of their control loops, workers answer after an inference that varies by a tenth, and
everybody's heartbeats run. What is measured is the core's own time for all of it, by event and by
second: a core that needs more than a second for one cannot carry that fleet. With --brokers N
robots and workers are dealt out to N cores. Payloads are shared, so memory is that of bookkeeping.
"""

from __future__ import annotations

from conf.flags import Flags, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from benchmarks.capacity.fleet import Counts, Fleet
from benchmarks.figures import Figure, save, table
from benchmarks.load.kinds import MIXED
from benchmarks.neighbours import BUSY, Neighbours
from scripts.local.timing import percentile

RESULT = Path("benchmarks/results/capacity.json")
_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(
    robots: int,
    workers: int,
    brokers: int,
    inference_s: float,
    seconds: float,
    progress: Callable[[], None],
) -> list[Figure]:
    """One fleet for each broker, one after the other; the busiest one's figures, and all in sum."""
    warm_s = 1.0
    found: list[Counts] = []
    before_mb = _resident_mb()
    grown_mb = 0.0
    for number in range(brokers):
        dealt = range(len(range(number, robots, brokers)))
        kinds = [MIXED[each % len(MIXED)] for each in dealt]
        share = len(range(number, workers, brokers))
        fleet = Fleet(kinds, share, inference_s, seed=number)
        fleet.counts.count_from = warm_s
        gc.collect()
        gc.freeze()  # as the broker's process does
        while fleet.now < warm_s + seconds:
            fleet.run_until(fleet.now + 0.25)
            progress()
        grown_mb = max(grown_mb, _resident_mb() - before_mb)
        found.append(fleet.counts)
    return figures(found, robots, workers, seconds, grown_mb)


def figures(
    found: Sequence[Counts], robots: int, workers: int, seconds: float, grown_mb: float
) -> list[Figure]:
    """What the cores took for it, and what robots had of it."""
    busiest = max(found, key=lambda counts: sum(counts.spent_s.values()))
    events, spent_s = busiest.events.total(), sum(busiest.spent_s.values())
    outcomes = sum((counts.outcomes for counts in found), Counter[str]())
    requests = outcomes.total()
    beats = ("heartbeat", "tick")
    beats_s = sum(busiest.spent_s.get(name, 0.0) for name in beats)
    title = f"{robots} robots, {workers} workers, {len(found)} brokers"
    took = [each for counts in found for each in counts.took_ms] or [0.0]
    return [
        Figure(f"{title}: requests", requests / seconds, "a second"),
        Figure("  in time", 100.0 * outcomes["in time"] / max(1, requests), "%"),
        Figure("  answered after, p50", percentile(50)(took), "ms"),
        Figure("  answered after, p99", percentile(99)(took), "ms"),
        Figure("  the busiest core: events", events / seconds, "a second"),
        Figure("  an event takes it", spent_s / max(1, events) * 1e6, "µs"),
        Figure("  a request", spent_s / max(1, busiest.outcomes.total()) * 1e6, "µs"),
        Figure("  it works for", 100.0 * spent_s / seconds, "% of the time"),
        Figure("  of it heartbeats", 100.0 * beats_s / seconds, "% of the time"),
        Figure("  events a second of its own", events / max(1e-9, spent_s), ""),
        Figure("  memory for it and the simulation", grown_mb, "MB"),
    ]


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_MB


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print and save; the exit code is 0, as there is no bar."""
    parser = Flags("python -m benchmarks.capacity", __doc__)
    parser.add_argument("--robots", type=int, default=10_000, help="(10000)")
    parser.add_argument("--workers", type=int, default=500, help="(500)")
    parser.add_argument("--brokers", type=int, nargs="+", default=[1, 4], help="(1 4)")
    parser.add_argument("--inference-ms", type=float, default=25.0, help="(25)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of simulated time (4)")
    parser.add_argument("--result", type=Path, default=RESULT, help=f"JSON file ({RESULT})")
    options = parser.read(arguments)
    if min(options.robots, options.workers, *options.brokers, options.seconds) <= 0:
        parser.error("robots, workers, brokers and seconds are numbers above 0")
    console = Console(highlight=False)
    for brokers in options.brokers:
        neighbours, own_s = Neighbours(), time.process_time()
        with Progress(console=console) as progress:
            steps = brokers * (options.seconds + 1.0) / 0.25
            bar = progress.add_task(f"{brokers} brokers", total=steps)
            rows = measure(
                options.robots,
                options.workers,
                brokers,
                options.inference_ms / 1e3,
                options.seconds,
                lambda progress=progress, bar=bar: progress.advance(bar),  # type: ignore[misc]
            )
        others = neighbours.cores(time.process_time() - own_s)
        console.print(table(f"{brokers} brokers", rows))
        if others > BUSY:
            console.print(f"[bold]others kept {others:.1f} cores busy: not to be trusted[/bold]")
        more = {"others_cores": others, "busy": others > BUSY, "inference_ms": options.inference_ms}
        save(options.result, f"{brokers} brokers", rows, more)
    return 0


if __name__ == "__main__":
    run_command(main)
