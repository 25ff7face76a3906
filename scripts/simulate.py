"""Plays seeded simulations of the broker, and makes a test of the first that goes wrong.

    python -m scripts.simulate --seeds 100000

Exit codes: 0 nothing went wrong, 1 an invariant was violated, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from tests.simulation.generator import generate
from tests.simulation.schedule import Schedule
from tests.simulation.shrink import as_test, failure, last_words, shrink
from tests.simulation.violation import Violation
from tests.simulation.world import Outcome, World

CLEAN, VIOLATED, INTERRUPTED = 0, 1, 130

_NOTED_EVERY_S = 0.2
_SHOWN = 15  # last events


class Tally:
    """What all simulations so far did."""

    def __init__(self) -> None:
        self.seeds = 0
        self._words: Counter[str] = Counter()
        self._events = 0
        self._simulated_s = 0.0
        self._over_slots = 0
        self._began = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """One more went well."""
        self.seeds += 1
        self._words += outcome.words
        self._events += outcome.handled
        self._simulated_s += outcome.simulated_s
        self._over_slots += outcome.over_slots

    def table(self) -> Table:
        """All of it, for a terminal."""
        took_s = time.monotonic() - self._began
        result = Table("what", "count", show_header=False, box=None)
        for word, count in sorted(self._words.items(), key=lambda item: -item[1]):
            result.add_row(word, f"{count:,}")
        result.add_row("events of the core", f"{self._events:,}")
        result.add_row("seconds simulated", f"{self._simulated_s:,.0f}")
        result.add_row("workers over their slots after a re-registration", f"{self._over_slots:,}")
        result.add_row("seconds taken", f"{took_s:,.1f}")
        return result


def play(start: int, seeds: int, tally: Tally, console: Console) -> Schedule | None:
    """Play seeds one after another; returns the first schedule that fails."""
    columns = (TextColumn("seed"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=seeds)
        noted = time.monotonic()
        for seed in range(start, start + seeds):
            schedule = generate(seed)
            try:
                tally.add(World(schedule).play())
            except Violation:
                return schedule
            if time.monotonic() - noted > _NOTED_EVERY_S:
                noted = time.monotonic()
                progress.update(task, completed=tally.seeds)
        progress.update(task, completed=seeds)
    return None


def explain(schedule: Schedule, console: Console) -> None:
    """Print what went wrong, and the shortest test that shows it."""
    violation = failure(schedule)
    if violation is None:
        console.print(f"seed {schedule.seed} failed once and not again: the simulation is at fault")
        return
    console.print(f"seed {schedule.seed}: {violation}", style="bold red", markup=False)
    with console.status(f"shrinking {len(schedule.steps)} steps"):
        shrunk = shrink(schedule, violation.number)
    console.print("the core's last events, and what it asked for:")
    # Not through rich, which would wrap lines: these and the test are to be copied.
    print(*last_words(shrunk, _SHOWN), sep="\n")
    console.print(f"{len(shrunk.steps)} of {len(schedule.steps)} steps are enough:\n")
    print(as_test(shrunk))


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, report, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=2_000, help="how many to play")
    parser.add_argument("--start", type=int, default=0, help="the first one")
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.start < 0:
        parser.error("--seeds must be at least 1 and --start at least 0")
    console, tally = Console(), Tally()
    try:
        failed = play(options.start, options.seeds, tally, console)
        if failed is not None:
            explain(failed, console)
    except KeyboardInterrupt:
        console.print(f"interrupted: {tally.seeds:,} seeds were clean")
        return INTERRUPTED
    console.print(tally.table())
    if failed is not None:
        return VIOLATED
    console.print(f"{tally.seeds:,} seeds are clean", style="green")
    return CLEAN


if __name__ == "__main__":
    sys.exit(main())
