"""Plays seeded simulations of the broker, and makes a test of the first that goes wrong.

    python -m tests.simulation --seeds 100000 --result benchmarks/results/simulation.json

Exit codes: 0 nothing went wrong, 1 an invariant was violated, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from benchmarks.machine import describe
from scripts.local.forks import die_with, signals_wait
from tests.simulation.generator import generate
from tests.simulation.schedule import Schedule
from tests.simulation.shrink import as_test, failure, last_words, shrink
from tests.simulation.violation import Violation
from tests.simulation.world import Outcome, World

CLEAN, VIOLATED, INTERRUPTED = 0, 1, 130

_BATCH = 20  # seeds that a process plays at a time, in a third of a second
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

    def figures(self) -> dict[str, Any]:
        """All of it, for a results file."""
        seconds = time.monotonic() - self._began
        return {
            "seeds": self.seeds,
            "seconds": round(seconds, 1),
            "seeds_a_second": round(self.seeds / seconds, 1),
            "events": self._events,
            "simulated_s": round(self._simulated_s),
            "over_slots": self._over_slots,
            "answers": dict(self._words.most_common()),
        }

    def table(self) -> Table:
        """All of it, for a terminal."""
        figures = self.figures()
        result = Table("what", "count", show_header=False, box=None)
        for word, count in figures["answers"].items():
            result.add_row(word, f"{count:,}")
        result.add_row("events of the core", f"{figures['events']:,}")
        result.add_row("seconds simulated", f"{figures['simulated_s']:,}")
        result.add_row(
            "workers over their slots after a re-registration", f"{figures['over_slots']:,}"
        )
        result.add_row("seconds taken", f"{figures['seconds']:,}")
        result.add_row("seeds a second", f"{figures['seeds_a_second']:,}")
        return result


def play(seeds: range, jobs: int, tally: Tally, console: Console) -> Schedule | None:
    """Play seeds in several processes; returns the schedule of the first that fails.

    Raises:
        RuntimeError: a process ended early; it has printed why.
    """
    columns = (TextColumn("seed"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    batches = [seeds[first : first + _BATCH] for first in range(0, len(seeds), _BATCH)]
    with _players(batches, jobs) as players, Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=len(seeds))
        for number, batch in enumerate(batches):
            line = players[number % len(players)].readline()
            if not line.endswith("\n"):
                raise RuntimeError(f"the process that played seeds {batch} ended")
            told = json.loads(line)
            for outcome in told["outcomes"]:
                tally.add(Outcome(**{**outcome, "words": Counter(outcome["words"])}))
            if told["failed"] is not None:
                return generate(told["failed"])
            progress.update(task, completed=tally.seeds)
    return None


@contextmanager
def _players(batches: Sequence[range], jobs: int) -> Iterator[list[TextIO]]:
    """Processes that take turns at the batches; what each says, a line a batch, in its order.

    Forked: what a test has planted in the core is planted in them too. Leaving kills them at once,
    whatever they are at.
    """
    pids: list[int] = []
    players: list[TextIO] = []
    parent, count = os.getpid(), min(jobs, len(batches))
    try:
        with signals_wait():
            for first in range(count):
                ours, theirs = os.pipe()
                pid = os.fork()
                if pid == 0:
                    _play_all(batches[first::count], theirs, parent)
                os.close(theirs)
                pids.append(pid)
                players.append(os.fdopen(ours))
        yield players
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for player in players:
            player.close()


def _play_all(batches: Sequence[range], pipe: int, parent: int) -> NoReturn:
    """In a new process: all of it. Ctrl-C is the parent's affair, and so is our end."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        die_with(parent)()
        with os.fdopen(pipe, "w") as lines:
            for batch in batches:
                print(json.dumps(_play(batch)), file=lines, flush=True)
    except BaseException:  # noqa: BLE001 (never back into the code of the parent)
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _play(seeds: range) -> dict[str, Any]:
    """What the seeds before the first failing one did, and which that is."""
    outcomes = []
    for seed in seeds:
        try:
            outcomes.append(vars(World(generate(seed)).play()))
        except Violation:
            return {"outcomes": outcomes, "failed": seed}
    return {"outcomes": outcomes, "failed": None}


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


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--seeds", type=int, default=2_000, help="how many to play (2000)")
    parser.add_argument("--start", type=int, default=0, help="the first one (0)")
    parser.add_argument("--jobs", type=int, default=cores, help=f"processes (all cores: {cores})")
    parser.add_argument("--result", type=Path, help="JSON file for the figures of a clean run")
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.start < 0 or options.jobs < 1:
        parser.error("--seeds and --jobs must be at least 1 and --start at least 0")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Play, report, and return the exit code."""
    options = _parse(arguments)
    console, tally = Console(), Tally()
    seeds = range(options.start, options.start + options.seeds)
    try:
        failed = play(seeds, options.jobs, tally, console)
        if failed is not None:
            explain(failed, console)
    except KeyboardInterrupt:
        console.print(f"interrupted: {tally.seeds:,} seeds were clean")
        return INTERRUPTED
    console.print(tally.table())
    if failed is not None:
        return VIOLATED
    console.print(f"{tally.seeds:,} seeds are clean", style="green")
    if options.result is not None:
        _save(options.result, options, tally)
    return CLEAN


def _save(path: Path, options: argparse.Namespace, tally: Tally) -> None:
    content = {**describe(), "first_seed": options.start, "jobs": options.jobs, **tally.figures()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
