"""`python -m benchmarks.load [--quick]`: many paced robots, few workers, answers in time.

Three parts. scaling: 1, 2, 4 and 8 workers of 50 ms, and the broker's own limit with what binds it.
crowd: 200 robots at 1 Hz with 301 KB, and what is added to the policy's own time. goodput: the
share of answers that come while a robot can use them, against load from 0.5 to 2 times what the
workers can, for our order of service, for first come first served (the same broker, told nothing
of deadlines), and for one openpi server for each group of robots. Robots have real sockets and
send real sizes; policies only sleep. Exit code 1 if a figure misses its bar. Run it on a quiet
machine; each part replaces only its own part of the results file.
"""

from __future__ import annotations

from conf.flags import Flags, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.figures import Figure, save, table
from benchmarks.load.parts import QUICK, Found, Progressing, Size, crowd, goodput, scaling
from benchmarks.load.plot import draw
from benchmarks.neighbours import BUSY
from scripts.local.processes import ProcessError

RESULT = Path("benchmarks/results/load.json")
LOGS = Path("outputs/load")
PARTS: dict[str, Callable[[Path, Size, Progressing], Found]] = {
    "scaling": scaling,
    "crowd": crowd,
    "goodput": goodput,
}


def steps_of(part: str, size: Size) -> int:
    """How many runs a part has."""
    counts = {"scaling": size.workers.bit_length() + 1, "crowd": 1, "goodput": 3 * len(size.loads)}
    return counts[part]


class Steps:
    """A progress bar whose text names the step that is under way."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._bar = progress.add_task("starting", total=total)
        self._begun = 0

    def begin(self, what: str) -> None:
        """The next step begins, and the one before it is done."""
        self._progress.update(self._bar, description=what, completed=self._begun)
        self._begun += 1

    def end(self) -> None:
        """The last one is done."""
        self._progress.update(self._bar, completed=self._begun)


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 all within their bars, 1 not, or a process failed."""
    parser = Flags("python -m benchmarks.load", __doc__)
    parser.add_argument("--quick", action="store_true", help="only try it out: a second each")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="these parts alone")
    parser.add_argument("--result", type=Path, default=RESULT, help=f"JSON file ({RESULT})")
    options = parser.read(arguments)
    size = QUICK if options.quick else Size()
    console = Console(highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    figures: list[Figure] = []
    for name, measure in PARTS.items():
        if options.only and name not in options.only:
            continue
        try:
            with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
                steps = Steps(progress, steps_of(name, size))
                found = measure(LOGS / name, size, steps.begin)
                steps.end()
        except (ProcessError, RuntimeError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        console.print(table(name, found.figures))
        others = found.more["others_cores"]
        if others > BUSY:
            console.print(f"[bold]others kept {others:.1f} cores busy: not to be trusted[/bold]")
        save(options.result, name, found.figures, {"busy": others > BUSY, **found.more})
        if name == "goodput":
            draw(found.more, options.result.with_suffix(".png"))
        figures += found.figures
    return 0 if all(figure.passes for figure in figures) else 1


if __name__ == "__main__":
    run_command(main)
