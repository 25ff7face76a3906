"""`python -m benchmarks.transport`: round trips through our broker beside five other ways.

Ours (robot, broker, worker) with the images as bytes, in shared memory, and as JPEG files; the
barest sketch of the same design; openpi's client and server, as they come and with glibc's
allocator tuned; plain pyzmq REQ/REP; raw TCP, the floor. The policy answers at once, so what
remains is the transport. All run at the same time and take turns. Exit code 1 if a figure misses
its bar. Run it on a quiet machine: it measures microseconds.
"""

from __future__ import annotations

from conf.flags import INTERRUPTED, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.figures import table
from benchmarks.neighbours import BUSY
from benchmarks.transport import loopback
from benchmarks.transport.bars import figures, last_line, ratio_tables
from benchmarks.transport.cells import Cells, others_cores, save, tables
from benchmarks.transport.hosts import HERE, Site
from benchmarks.transport.options import make_plans, parser
from benchmarks.transport.plan import measure
from scripts.local.processes import ProcessError

LOGS = Path("outputs/transport")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code.

    0 all within their bars, 1 not, 2 the machine or an option does not allow it, 3 a peer failed,
    130 interrupted.
    """
    options = parser(__doc__).read(arguments)
    plans = make_plans(options)
    if any(pinned for plan in plans for pinned in plan.pinned) and len(os.sched_getaffinity(0)) < 2:
        print("pinning needs two cores: add --unpinned", file=sys.stderr)
        return 2
    console = Console(stderr=True)
    settings = _settings(options.congestion, console)
    if not settings:
        return 2
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    try:
        with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
            turns = len(settings) * sum(plan.turns() for plan in plans)
            bar = progress.add_task("", total=turns)
            cells: Cells = {}
            for congestion in settings:
                with _site(congestion) as site:
                    for plan in plans:
                        cells |= measure(
                            replace(plan, congestion=congestion),
                            LOGS / congestion,
                            lambda what, done: progress.update(bar, description=what, advance=done),
                            site,
                        )
    except ProcessError as error:
        print(error, file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted: all processes are stopped, nothing is saved", file=sys.stderr)
        return INTERRUPTED
    save(options.json, cells, figures(cells), last_line(cells))
    return _report(cells)


def _settings(wanted: str, console: Console) -> list[str]:
    """The congestion controls to measure with; empty where what was asked for cannot be had."""
    own = loopback.own()
    if wanted == "own" or (own == loopback.USUAL and not loopback.reason_against()):
        return [own]
    reason = loopback.reason_against()
    if not reason:
        return [loopback.USUAL] if wanted == "usual" else [loopback.USUAL, own]
    console.print(f"no loopback with {loopback.USUAL}: {reason}", soft_wrap=True)
    return [] if wanted == "usual" else [own]


def _site(congestion: str) -> AbstractContextManager[Site]:
    if congestion == loopback.own():
        return nullcontext(HERE)
    return loopback.usual_loopback()


def _report(cells: Cells) -> int:
    # The whole width even where stdout is a file: a cut table is of no use.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 132)
    for each in tables(cells):
        console.print(each)
    found = figures(cells)
    for ratios in ratio_tables(cells):
        console.print(ratios)
    # The other ratios are in the tables above.
    held = [each for each in found if each.bar is not None or each.unit]
    console.print(table("one robot, pinned, where nothing else is said", held))
    others = others_cores(cells)
    if others > BUSY:
        console.print(f"NOT QUIET: other processes kept {others:.2f} cores busy meanwhile")
    if line := last_line(cells):
        console.print(line, soft_wrap=True)
    return 0 if all(figure.passes for figure in found) else 1


if __name__ == "__main__":
    run_command(main)
