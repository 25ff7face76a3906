"""What the core itself costs for one request, by number of robots and of workers.

    python -m benchmarks.scheduling

Robots ask, workers answer and everybody's heartbeats run on simulated time, so nothing but the
core is measured: all of its events (a request, its result, and the heartbeats that fall between)
over the number of requests answered. No sockets, no header decoding. Heartbeats are also reported
separately: they cost the same per second however few requests there are, so with few robots and
many workers most of a request's cost is theirs.
"""

from __future__ import annotations

from conf.flags import Flags, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import gc
import heapq
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display: must be chosen before pyplot is imported

from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from broker.config import BrokerConfig
from broker.core import Core
from broker.events import Event, RobotMessage, Tick, ToRobot, ToWorker, WorkerMessage
from client.wire import RequestId

ROBOTS = (1, 10, 100, 1000)
WORKERS = (1, 10, 100)
BAR_US = 60.0  # at the most robots and workers
INFERENCE_S = 0.02
THINK_S = 0.0005  # between a robot's answer and its next request
DEADLINE_MS = 3_600_000.0  # so that nothing but scheduling happens
PAYLOAD = (bytes(1000),)
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One measurement: microseconds for a request, the median of several runs and their spread.

    `heartbeats_us` is the part of the median that heartbeats take.
    """

    robots: int
    workers: int
    median_us: float
    fastest_us: float
    slowest_us: float
    heartbeats_us: float


class Fleet:
    """Robots that always want the next answer, and workers that always give it, around a core."""

    def __init__(self, robots: int, workers: int) -> None:
        self.answered = 0
        self.spent_s = 0.0  # inside the core
        self.beats_s = 0.0  # of that, over heartbeats
        self._core = Core(BrokerConfig(), epoch=1, now=0.0)
        self._now = 0.0
        self._coming: list[tuple[float, int, Event]] = []
        self._sent = 0
        self._sequences = [0] * robots
        for number in range(workers):
            self._join(b"worker %d" % number)
        for robot in range(robots):
            # Not all at once: robots are not in step.
            self._ask(robot, after_s=robot * INFERENCE_S / robots)

    def run(self, requests: int) -> tuple[float, float]:
        """Go on until this many more are answered.

        Returns the core's microseconds for each, and how many of them are over heartbeats.
        """
        spent_s, beats_s, until = self.spent_s, self.beats_s, self.answered + requests
        while self.answered < until:
            wake = self._core.wake_at()
            if self._coming[0][0] <= wake:
                self._now, _, event = heapq.heappop(self._coming)
            else:
                self._now, event = wake, Tick()
            self._handle(event)
        per_request = 1e6 / requests
        return (self.spent_s - spent_s) * per_request, (self.beats_s - beats_s) * per_request

    def _handle(self, event: Event) -> None:
        started = time.perf_counter()
        commands = self._core.handle(event, self._now)
        took_s = time.perf_counter() - started
        self.spent_s += took_s
        if _is_beat(event):
            self.beats_s += took_s
        for command in commands:
            if isinstance(command, ToRobot):
                self.answered += 1
                self._ask(int.from_bytes(command.header["id"].client, "big"), THINK_S)
            elif isinstance(command, ToWorker):
                self._obey(command)

    def _obey(self, command: ToWorker) -> None:
        header = command.header
        if header["kind"] == "infer":
            fields = {"kind": "result", "id": header["id"], "attempt": header["attempt"]}
            self._say(command.worker, INFERENCE_S, fields)
        elif header["kind"] == "heartbeat":
            worker = self._core.pool.by_id[command.worker]
            fields = {"kind": "heartbeat", "n": header["n"], "ids": list(worker.in_hand)}
            self._say(command.worker, 0.0, fields)

    def _join(self, worker: bytes) -> None:
        hello = {"kind": "hello", "policy": "noop", "incarnation": worker.ljust(16)}
        for fields in (hello, {"kind": "ready", "slots": 1, "inference_ms": INFERENCE_S * 1e3}):
            header = {"v": 1, "epoch": 1, **fields}
            self._handle(WorkerMessage(worker, header, PAYLOAD))

    def _ask(self, robot: int, after_s: float) -> None:
        self._sequences[robot] += 1
        client = robot.to_bytes(16, "big")
        header = {"v": 1, "kind": "infer", "id": RequestId(client, self._sequences[robot])}
        header |= {"policy": "noop", "deadline_ms": DEADLINE_MS, "session": "s"}
        sender = client[-5:]
        self._plan(after_s, RobotMessage(sender, (sender, b""), header, PAYLOAD))

    def _say(self, worker: bytes, after_s: float, fields: dict[str, Any]) -> None:
        self._plan(after_s, WorkerMessage(worker, {"v": 1, "epoch": 1, **fields}, PAYLOAD))

    def _plan(self, after_s: float, event: Event) -> None:
        self._sent += 1
        heapq.heappush(self._coming, (self._now + after_s, self._sent, event))


def _is_beat(event: Event) -> bool:
    """A worker's heartbeat, or the time that has come for ours: nothing else wakes this core."""
    if isinstance(event, WorkerMessage):
        return bool(event.header["kind"] == "heartbeat")
    return isinstance(event, Tick)


def measure(requests: int, repeats: int) -> list[Row]:
    """Microseconds of the core for a request, for each number of robots and of workers.

    The combinations take turns, so that other work on the machine disturbs all of them equally.
    """
    fleets = {(r, w): Fleet(r, w) for w in WORKERS for r in ROBOTS}
    for (robots, _), fleet in fleets.items():
        fleet.run(max(requests // 10, robots))
    runs: dict[tuple[int, int], list[tuple[float, float]]] = {key: [] for key in fleets}
    gc.collect()
    for _ in range(repeats):
        for key, fleet in fleets.items():
            runs[key].append(fleet.run(requests))
    return [Row(*key, *_of(costs)) for key, costs in runs.items()]


def _of(costs: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    """Median, least and most of the whole, and the median of the heartbeats' part."""
    all_us, beats_us = zip(*costs, strict=True)
    return statistics.median(all_us), min(all_us), max(all_us), statistics.median(beats_us)


def save(rows: Sequence[Row], folder: Path) -> None:
    """Write `scheduling.json` and `scheduling.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        **describe(),
        "inference_s": INFERENCE_S,
        "bar_us": BAR_US,
        "rows": [asdict(row) for row in rows],
    }
    (folder / "scheduling.json").write_text(json.dumps(content, indent=2) + "\n")
    figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
    _draw(panels[0], rows, "robots", "workers")
    _draw(panels[1], rows, "workers", "robots")
    panels[0].set(ylabel="core's time per request (µs)", ylim=(0, None))
    figure.suptitle("Scheduling cost; dotted: without heartbeats", x=0.01, ha="left")
    figure.savefig(folder / "scheduling.png", dpi=110)
    plt.close(figure)


def _draw(axes: Any, rows: Sequence[Row], along: str, each: str) -> None:
    """The growth with one number, a line for each of the other."""
    for count in sorted({getattr(row, each) for row in rows}):
        line = [row for row in rows if getattr(row, each) == count]
        places = [getattr(row, along) for row in line]
        label = f"{count} {each if count > 1 else each[:-1]}"
        (drawn,) = axes.plot(places, [row.median_us for row in line], marker="o", label=label)
        without = [row.median_us - row.heartbeats_us for row in line]
        axes.plot(places, without, linestyle=":", color=drawn.get_color())
    axes.axhline(
        BAR_US,
        color="crimson",
        linestyle="--",
        label=f"bar for {ROBOTS[-1]} robots, {WORKERS[-1]} workers",
    )
    axes.set(xscale="log", xlabel=along)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    result = Table("robots", "workers", "µs a request", "fastest", "slowest", "of it heartbeats")
    for column in result.columns:
        column.justify = "right"
    for row in rows:
        numbers = (row.median_us, row.fastest_us, row.slowest_us, row.heartbeats_us)
        result.add_row(str(row.robots), str(row.workers), *(f"{each:.1f}" for each in numbers))
    return result


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and save; the exit code is 0 whatever the numbers are."""
    parser = Flags("python -m benchmarks.scheduling", __doc__)
    parser.add_argument("--requests", type=int, default=4_000, help="in each run")
    parser.add_argument("--repeats", type=int, default=9, help="runs of each combination")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results go")
    options = parser.read(arguments)
    console = Console()
    with console.status("measuring"):
        rows = measure(options.requests, options.repeats)
    save(rows, options.folder)
    console.print(table(rows))
    worst = rows[-1]
    held = "within" if worst.median_us < BAR_US else "ABOVE"
    console.print(f"{worst.robots} robots, {worst.workers} workers: {held} {BAR_US:.0f} µs")
    return 0


if __name__ == "__main__":
    run_command(main)
