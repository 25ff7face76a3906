"""How often a policy succeeds in the ALOHA simulator, on seeds that no training has seen.

    python -m scripts.tiny.evaluate --episodes 100
    python -m scripts.tiny.evaluate --checkpoint DIR --condition "JPEG 90" --condition "3 steps"

The policy runs within this program's own processes; `--broker HOST:PORT` asks workers instead, by
the name aloha_sim.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from client import ZmqPolicyClient
from conf.compose import compose
from scripts.tiny.rollout import CONDITIONS, Condition, Outcome, Policy, roll_out
from scripts.tiny.scene import TASKS, Scene
from scripts.tiny.success import table
from worker.config import WorkerConfig

INTERRUPTED = 130
MODEL = ("env=aloha_sim", "model=tiny", "runtime.threads=1")

Job = tuple[str, str, int]
"""Names of task and condition, and a seed."""


class Workplace:
    """What a process needs for episodes; made when it is first needed, then kept."""

    def __init__(self, settings: Sequence[str], broker: str | None) -> None:
        self._settings, self._broker = settings, broker
        self._scenes: dict[str, Scene] = {}
        self._policies: dict[tuple[str, ...], Policy] = {}

    def run(self, job: Job) -> Outcome:
        """One episode."""
        task, name, seed = job
        if task not in self._scenes:
            self._scenes[task] = Scene(TASKS[task])
        return roll_out(self._scenes[task], self._policy(CONDITIONS[name]), CONDITIONS[name], seed)

    def _policy(self, condition: Condition) -> Policy:
        settings = (*self._settings, *condition.server_settings) if self._broker is None else ()
        if settings not in self._policies:
            self._policies[settings] = self._connect() if self._broker else load(settings)
        return self._policies[settings]

    def _connect(self) -> Policy:
        host, _, port = str(self._broker).rpartition(":")
        return ZmqPolicyClient(host, int(port), policy="aloha_sim")


_workplace: Workplace | None = None


def load(settings: Sequence[str]) -> Policy:
    """The policy that a worker with these settings would serve.

    Raises:
        worker.errors.WorkerError: it cannot be served.
    """
    from worker.__main__ import build

    policy = build(compose("worker", WorkerConfig, settings))
    getattr(policy, "load", lambda: None)()
    return policy


def evaluate(
    jobs: Sequence[Job], settings: Sequence[str], broker: str | None, processes: int
) -> Iterable[Outcome]:
    """Run all `jobs`; yields what they come to, in no particular order."""
    # Spawned: a forked process would inherit a renderer that only its parent can use.
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _prepare, [settings, broker]) as pool:
        yield from pool.imap_unordered(_run, jobs)


def _prepare(settings: Sequence[str], broker: str | None) -> None:
    global _workplace
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    _workplace = Workplace(settings, broker)


def _run(job: Job) -> Outcome:
    if _workplace is None:
        raise RuntimeError("an episode was asked for before its process was prepared")
    return _workplace.run(job)


def earlier(path: Path, jobs: Sequence[Job]) -> list[Outcome]:
    """Those of `jobs` that `path` has outcomes of."""
    if not path.exists():
        return []
    told = [Outcome(**json.loads(line)) for line in path.read_text().splitlines()]
    return [o for o in told if (o.task, o.condition, o.seed) in set(jobs)]


def append(path: Path, outcome: Outcome) -> None:
    """Add a line to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(outcome)) + "\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        prog="python -m scripts.tiny.evaluate", description=__doc__.partition("\n")[0]
    )
    add = parser.add_argument
    add("--task", choices=list(TASKS), action="append", help="default: all tasks")
    add("--condition", choices=list(CONDITIONS), action="append", help="default: all conditions")
    add("--episodes", type=int, default=100, help="of each task and condition (100)")
    add("--first-seed", type=int, default=0, help="held-out ones lie below a million (0)")
    add("--checkpoint", help="folder with weights; default: what model=tiny loads by itself")
    add("--broker", metavar="HOST:PORT", help="ask workers behind this broker")
    add("--processes", type=int, default=cores, help=f"all cores: {cores}")
    add("--result", type=Path, help="file with a JSON line for each episode; goes on from there")
    options = parser.parse_args(arguments)
    if options.episodes < 1 or options.processes < 1:
        parser.error("--episodes and --processes must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 130 after Ctrl-C."""
    options, console = _parse(arguments), Console(highlight=False)
    seeds = range(options.first_seed, options.first_seed + options.episodes)
    names = options.condition or list(CONDITIONS)
    jobs = [(t, name, s) for name in names for t in options.task or TASKS for s in seeds]
    settings = [*MODEL, *([f"checkpoint='{options.checkpoint}'"] if options.checkpoint else [])]
    columns = (TextColumn("episodes"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    outcomes = [] if options.result is None else earlier(options.result, jobs)
    there = {(o.task, o.condition, o.seed) for o in outcomes}
    missing = [job for job in jobs if job not in there]
    try:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("", total=len(jobs), completed=len(outcomes))
            for outcome in evaluate(missing, settings, options.broker, options.processes):
                outcomes.append(outcome)
                progress.advance(bar)
                if options.result is not None:
                    append(options.result, outcome)
    except KeyboardInterrupt:
        console.print(f"stopped after {len(outcomes)} of {len(jobs)} episodes")
    console.print(table(outcomes))
    return 0 if len(outcomes) == len(jobs) else INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
