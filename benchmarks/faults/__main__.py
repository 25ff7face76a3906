"""`python -m benchmarks.faults [--quick]`: how fast faults are dealt with, and what others notice.

A worker killed idle and busy, the broker restarted, one of two brokers killed and restarted, many
clients for a minute with and without deaths, and one badly behaved peer among others. Exit code 1
if a figure is above its bar. Run it on a quiet machine: it measures milliseconds. Each part
replaces only its own part of the results file.
"""

from __future__ import annotations

from conf.flags import Flags, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.faults.bad_peers import KINDS, bad_peers
from benchmarks.faults.failover import broker_killed, worker_killed
from benchmarks.faults.sustained import PERIODS_S, sustained
from benchmarks.faults.two_brokers import two_brokers
from benchmarks.figures import Figure, save, table
from scripts.local.processes import ProcessError

RESULT = Path("benchmarks/results/faults.json")
LOGS = Path("outputs/faults")

Progressing = Callable[[], None]
Part = tuple[Callable[[Path, Progressing], list[Figure]], int]


def parts(quick: bool, seconds: float) -> dict[str, Part]:
    """What is measured, and in how many steps."""
    kills, restarts = (4, 2) if quick else (25, 8)
    beside_s = 4.0 if quick else 15.0

    def worker(logs: Path, step: Progressing) -> list[Figure]:
        return worker_killed(logs, kills, step)

    def broker(logs: Path, step: Progressing) -> list[Figure]:
        return broker_killed(logs, restarts, step)

    def pair(logs: Path, step: Progressing) -> list[Figure]:
        return two_brokers(logs, restarts, step)

    def load(logs: Path, step: Progressing) -> list[Figure]:
        return sustained(logs, seconds, step)

    def peers(logs: Path, step: Progressing) -> list[Figure]:
        return bad_peers(logs, beside_s, step)

    return {
        "worker": (worker, kills),
        "broker": (broker, restarts),
        "two brokers": (pair, 1 + 2 * restarts),
        "load": (load, 2 * len(PERIODS_S)),
        "peers": (peers, len(KINDS)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 all within their bars, 1 not."""
    parser = Flags("python -m benchmarks.faults", __doc__)
    parser.add_argument("--quick", action="store_true", help="few repeats, 10 s of load")
    parser.add_argument("--seconds", type=float, help="of load (60)")
    parser.add_argument("--only", nargs="+", choices=parts(False, 0.0), help="these parts alone")
    parser.add_argument("--result", type=Path, default=RESULT, help=f"JSON file ({RESULT})")
    options = parser.read(arguments)
    chosen = parts(options.quick, options.seconds or (10.0 if options.quick else 60.0))
    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    figures: list[Figure] = []
    for name, (measure, steps) in chosen.items():
        if options.only and name not in options.only:
            continue
        try:
            with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
                bar = progress.add_task(name, total=steps)
                found = measure(LOGS / name, partial(progress.advance, bar))
        except (ProcessError, RuntimeError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        console.print(table(name, found))
        save(options.result, name, found)
        figures += found
    return 0 if all(figure.passes for figure in figures) else 1


if __name__ == "__main__":
    run_command(main)
