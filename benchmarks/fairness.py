"""One greedy evaluation of 64 clients beside four live robots, with fairness and without.

    python -m benchmarks.fairness

Two workers take 20 ms for each inference. The live robots ask 10 times a second each, which is 40 %
of what the workers can do, and have 100 ms for an answer. The evaluation's clients, in a process of
their own, ask again as soon as they are answered: the workers are always fully loaded.
"""

from __future__ import annotations

from conf.flags import INTERRUPTED, Flags, between, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing.sharedctypes import Synchronized
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from client import ZmqPolicyClient
from client.errors import PolicyError
from scripts.local.deployment import await_ready
from scripts.local.processes import ProcessError, Processes, free_ports
from scripts.local.timing import percentile

WORKERS, INFERENCE_S = 2, 0.02
LIVE, PERIOD_S, DEADLINE_S = 4, 0.1, 0.1
GREEDY = 64
RESULT = Path(__file__).parent / "results" / "fairness.json"
_SETTLE_S = 1.0  # at the start of each case: not measured
_OBSERVATION = {"state": np.zeros(14, np.float32)}


@dataclass(frozen=True)
class Case:
    """Who asks, and how."""

    name: str
    has_job: bool = True
    traffic: str = "live"  # as the evaluation's clients call it
    deadline_s: float | None = None  # that live robots give; None: the client's default
    reserve_live: int = 0


CASES = (
    Case("no evaluation", has_job=False),
    Case("without fairness"),
    Case("without, live robots give deadline_s=0.1", deadline_s=DEADLINE_S),
    Case('with fairness: traffic="evaluation"', traffic="evaluation"),
    Case("and fairness.reserve_live=1", traffic="evaluation", reserve_live=1),
)


@dataclass(frozen=True)
class Row:
    """What live robots and the evaluation got in one case."""

    case: str
    live_asked: int
    live_p50_ms: float
    live_p99_ms: float
    live_in_time: float  # share answered within `DEADLINE_S`
    evaluation_per_s: float  # answers


def _job(port: int, traffic: str, over: Event, answered: Synchronized[int]) -> None:
    """In a process of its own: clients that always want the next answer."""

    def ask() -> None:
        with ZmqPolicyClient("127.0.0.1", port, robot="job", traffic=traffic) as client:
            while not over.is_set():
                try:
                    client.infer(_OBSERVATION)
                except PolicyError:
                    time.sleep(0.1)  # refused: there is more to do than can be done
                else:
                    with answered.get_lock():
                        answered.value += 1

    clients = [threading.Thread(target=ask, daemon=True) for _ in range(GREEDY)]
    for client in clients:
        client.start()
    for client in clients:
        client.join(20.0)


def _live(
    port: int, number: int, case: Case, is_over: Callable[[], bool], tell: Callable[[float], None]
) -> None:
    """A robot's loop; tells how long each answer took, in seconds; infinity where none came."""
    due = time.monotonic() + number * PERIOD_S / LIVE
    with ZmqPolicyClient("127.0.0.1", port, robot=f"arm-{number}") as client:
        while not is_over():
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.monotonic()
            due = max(due + PERIOD_S, began)
            try:
                client.infer(_OBSERVATION, deadline_s=case.deadline_s)
            except PolicyError:
                tell(float("inf"))
            else:
                tell(time.monotonic() - began)


def measure(port: int, case: Case, seconds: float) -> Row:
    """Play one case against a broker whose workers are ready.

    Raises:
        ProcessError: the evaluation's process ended early.
    """
    context = multiprocessing.get_context("spawn")
    over, answered = context.Event(), context.Value("q", 0)
    process = context.Process(target=_job, args=(port, case.traffic, over, answered), daemon=True)
    took: list[float] = []
    robots = [
        threading.Thread(
            target=_live, args=(port, number, case, over.is_set, took.append), daemon=True
        )
        for number in range(LIVE)
    ]
    try:
        if case.has_job:
            process.start()
            while answered.value < GREEDY:
                time.sleep(0.05)
                if not process.is_alive():
                    raise ProcessError("the evaluation's process ended: its message is above")
        for robot in robots:
            robot.start()
        time.sleep(_SETTLE_S)
        before, first, began = answered.value, len(took), time.monotonic()
        time.sleep(seconds)
        measured, count = took[first:], answered.value - before
        lasted_s = time.monotonic() - began
        over.set()
        for robot in robots:
            robot.join()
    finally:
        over.set()
        if process.is_alive():
            process.join(3.0)
            process.kill()
    return Row(
        case.name,
        len(measured),
        percentile(50)(measured) * 1e3,
        percentile(99)(measured) * 1e3,
        sum(each <= DEADLINE_S for each in measured) / max(1, len(measured)),
        count / lasted_s,
    )


def run(cases: Sequence[Case], seconds: float, tell: Callable[[Row], None]) -> list[Row]:
    """All cases, each with a broker and workers of its own.

    Raises:
        ProcessError: a server did not start, or ended.
        client.errors.PolicyError: the broker could not be reached.
    """
    rows = []
    for case in cases:
        with ExitStack() as stack:
            logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            processes = stack.enter_context(Processes(logs))
            front, back = free_ports(2)
            processes.start(
                "broker",
                "broker",
                f"frontend=tcp://127.0.0.1:{front}",
                f"backend=tcp://127.0.0.1:{back}",
                f"fairness.reserve_live={case.reserve_live}",
            )
            for number in range(WORKERS):
                settings = ["policy=noop", f"policy.time_s={INFERENCE_S}", "env=aloha_sim"]
                broker = f"broker=tcp://127.0.0.1:{back}"
                processes.start(f"worker {number}", "worker", broker, *settings)
            with ZmqPolicyClient("127.0.0.1", front) as client:
                if await_ready(client, WORKERS) != WORKERS:
                    raise ProcessError("the workers did not become ready")
            rows.append(measure(front, case, seconds))
        tell(rows[-1])
    return rows


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    within = f"within {DEADLINE_S * 1e3:.0f} ms"
    result = Table("case", "live: p50 ms", "p99 ms", within, "evaluation: answers a second")
    for column in result.columns[1:]:
        column.justify = "right"
    for row in rows:
        result.add_row(
            row.case,
            f"{row.live_p50_ms:.1f}",
            f"{row.live_p99_ms:.1f}",
            f"{row.live_in_time:.1%}",
            f"{row.evaluation_per_s:.1f}",
        )
    return result


def save(rows: Sequence[Row], path: Path) -> None:
    """Write them with the machine and what was asked."""
    setting: dict[str, Any] = {
        "workers": WORKERS,
        "inference_s": INFERENCE_S,
        "live_robots": LIVE,
        "live_hz": 1.0 / PERIOD_S,
        "deadline_s": DEADLINE_S,
        "evaluation_clients": GREEDY,
    }
    content = {**describe(), **setting, "rows": [asdict(row) for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and save; 1 where a server failed, 130 after Ctrl-C."""
    parser = Flags("python -m benchmarks.fairness", __doc__)
    parser.add_argument("--seconds", type=between(1, 600), default=5, help="of each case (5)")
    parser.add_argument("--result", type=Path, default=RESULT, help=f"JSON file ({RESULT.name})")
    options = parser.read(arguments)
    console = Console()
    try:
        with console.status(f"measuring {len(CASES)} cases"):
            rows = run(CASES, float(options.seconds), lambda row: console.print(row.case))
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ProcessError, PolicyError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    save(rows, options.result)
    console.print(table(rows))
    return 0


if __name__ == "__main__":
    run_command(main)
