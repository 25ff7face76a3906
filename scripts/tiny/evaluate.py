"""How often the tiny model succeeds in the ALOHA simulator: a table with a row for each condition.

    python -m scripts.tiny.evaluate                     the whole table, an hour or two
    python -m scripts.tiny.evaluate --row "3 steps" --row "JPEG 90" --episodes 20
    python -m scripts.tiny.evaluate --checkpoint DIR    other weights than those that ship

For each row it starts a broker and workers of its own, and robots in the simulator ask them, on
starts that no training has seen. `--broker HOST:PORT` asks those that run already, by the name
aloha_sim. The table is printed as Markdown and written to OUTPUT/table.md and OUTPUT/table.json.
Each episode is a line of OUTPUT/episodes.jsonl: interrupted, the same command goes on from there.
"""

from __future__ import annotations

from conf.flags import INTERRUPTED, Flags, between, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import argparse
import multiprocessing
import os
import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from client import ZmqPolicyClient
from client.errors import PolicyError
from conf.signals import terminable
from scripts.local.processes import ProcessError, Processes
from scripts.tiny.episodes import FIRST_TRAINING_SEED
from scripts.tiny.records import Records, weights_of
from scripts.tiny.scene import TASKS, Scene
from scripts.tiny.servers import Servers
from scripts.tiny.trial import CONDITIONS, Condition, Outcome, roll_out

FIRST_SEED = 1000
POLICY = "aloha_sim"
TIMEOUT_S = 60.0
"""For each inference: a machine that evaluates may be busy, and robots here can wait."""

Address = tuple[str, int]
"""Host and port of a broker."""


@dataclass(frozen=True)
class Job:
    """One episode."""

    task: str
    condition: str
    seed: int


class Robot:
    """Simulators, each made when it is first needed, and a connection to a broker."""

    def __init__(self, address: Address, condition: Condition) -> None:
        host, port = address
        codec = "raw" if condition.jpeg_quality is None else "jpeg"
        self.client = ZmqPolicyClient(
            host,
            port,
            policy=POLICY,
            timeout_s=TIMEOUT_S,
            connect_timeout_s=TIMEOUT_S,
            traffic="evaluation",  # no live robot is to wait for it
            image_codec=codec,
            jpeg_quality=condition.jpeg_quality or 95,
        )
        self._condition = condition
        self._scenes: dict[str, Scene] = {}

    def run(self, job: Job, servers: Servers | None = None) -> Outcome:
        """The whole episode."""
        if job.task not in self._scenes:
            self._scenes[job.task] = Scene(TASKS[job.task])
        before = None if servers is None else servers.before_request
        return roll_out(self._scenes[job.task], self.client, self._condition, job.seed, before)

    def close(self) -> None:
        """Free what the simulators and the connection hold."""
        self.client.close()
        for scene in self._scenes.values():
            scene.close()


@cache
def _robot(address: Address, condition: Condition) -> Robot:
    return Robot(address, condition)


def _run(address: Address, condition: Condition, job: Job) -> Outcome:
    """In a process of the pool, whose robot lives as long as it does."""
    return _robot(address, condition).run(job)


def in_processes(
    jobs: Sequence[Job], address: Address, condition: Condition, count: int
) -> Iterator[Outcome]:
    """Run `jobs` in `count` processes; yields what they come to, in no particular order."""
    # Spawned: a forked process would inherit a renderer that only its parent can use.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # inherited: Ctrl-C is the parent's
    try:
        futures = [pool.submit(_run, address, condition, job) for job in jobs]
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def disturbed(jobs: Sequence[Job], servers: Servers, condition: Condition) -> Iterator[Outcome]:
    """Run `jobs` one after the other, and in each bring the condition's fault about."""
    robot = Robot(("127.0.0.1", servers.port), condition)
    try:
        for job in jobs:
            servers.wait_ready()
            outcome = robot.run(job, servers)
            servers.check()
            yield outcome
    finally:
        robot.close()


def evaluate(jobs: Sequence[Job], options: argparse.Namespace) -> Generator[Outcome, None, None]:
    """Run `jobs`, all of one condition, against servers of its own or those of `--broker`.

    Raises:
        ProcessError: a server did not start, or ended.
        client.errors.PolicyError: an inference failed.
        BrokenProcessPool: a robot's process died.
    """
    condition = CONDITIONS[jobs[0].condition]
    robots = max(options.processes, condition.batch)
    if options.broker is not None:
        yield from in_processes(jobs, options.broker, condition, robots)
        return
    settings = [] if options.checkpoint is None else [f"checkpoint='{options.checkpoint}'"]
    logs = options.output / "logs" / condition.name.replace(" ", "-")
    with Processes(logs) as processes:
        servers = Servers(processes, condition, settings)
        servers.wait_ready()
        if condition.fault is not None:
            yield from disturbed(jobs, servers, condition)
        else:
            yield from in_processes(jobs, ("127.0.0.1", servers.port), condition, robots)


def run(options: argparse.Namespace, records: Records, console: Console) -> None:
    """All rows; see `evaluate` for what may go wrong."""
    all_jobs = [
        [Job(task, name, seed) for task in options.task for seed in _seeds(options, name)]
        for name in options.row
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    wanted = sum(map(len, all_jobs))
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("episodes", total=wanted)
        for jobs in all_jobs:
            missing = [j for j in jobs if not records.has(j.task, j.condition, j.seed)]
            progress.advance(bar, len(jobs) - len(missing))
            if not missing:
                continue
            progress.update(bar, description=missing[0].condition)
            with closing(evaluate(missing, options)) as outcomes:
                for outcome in outcomes:
                    records.add(outcome)
                    progress.advance(bar)
            records.write_table()


def _seeds(options: argparse.Namespace, row: str) -> range:
    count = options.episodes or CONDITIONS[row].episodes
    return range(options.first_seed, options.first_seed + count)


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT")
    return host, int(port)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; SystemExit with code 2 when it is wrong."""
    cores = len(os.sched_getaffinity(0))
    parser = Flags("python -m scripts.tiny.evaluate", __doc__)
    add = parser.add_argument
    add("--row", choices=list(CONDITIONS), action="append", help="may be repeated; default: all")
    add("--task", choices=list(TASKS), action="append", help="may be repeated; default: all")
    add(
        "--episodes",
        type=between(1, FIRST_TRAINING_SEED),
        help="of each row; default: 100 of the first three, 60 of the others",
    )
    add(
        "--first-seed",
        type=between(0, FIRST_TRAINING_SEED),
        default=FIRST_SEED,
        help=f"training has seen those from {FIRST_TRAINING_SEED:,} on ({FIRST_SEED})",
    )
    add("--checkpoint", help="folder with weights; default: those that ship")
    add("--broker", type=_address, metavar="HOST:PORT", help="ask what runs there already")
    add(
        "--processes",
        type=between(1, 64),
        default=cores,
        help=f"robots at once, where no row says how many (all cores: {cores})",
    )
    add(
        "--output",
        type=Path,
        default=Path("outputs/tiny/evaluation"),
        help="folder for what it writes (outputs/tiny/evaluation)",
    )
    options = parser.read(arguments)
    options.task = options.task or list(TASKS)
    unusable = [name for name in options.row or [] if CONDITIONS[name].needs_own_servers]
    if options.broker is not None and (unusable or options.checkpoint is not None):
        what = f"row {unusable[0]!r}" if unusable else "--checkpoint"
        parser.error(f"{what} needs servers of its own: leave --broker out")
    rows = options.row or [
        name for name, c in CONDITIONS.items() if options.broker is None or not c.needs_own_servers
    ]
    options.row = list(dict.fromkeys(rows))
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0; 1 for a failure that was explained; 130 after Ctrl-C."""
    options, console = parse(arguments), Console(highlight=False)
    with terminable():
        return _evaluate(options, console)


def _evaluate(options: argparse.Namespace, console: Console) -> int:
    try:
        weights = weights_of(options.checkpoint, options.broker)
        records = Records(options.output, weights, options.first_seed)
        run(options, records, console)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        return INTERRUPTED
    except (ProcessError, PolicyError, BrokenProcessPool, OSError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    console.print(escape(records.write_table()), soft_wrap=True)
    console.print(f"{escape(str(options.output))}/table.json has the same for programs")
    return 0


if __name__ == "__main__":
    run_command(main)
