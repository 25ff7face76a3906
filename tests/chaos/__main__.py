"""`python -m tests.chaos`: everything that can break is broken, and every answer is checked.

A broker, echo workers and robots over real sockets. A monkey kills and freezes processes, and
proxies between them delay, cut, halve and reset their connections. At the end all is put right,
and every robot must be served again. Exit code 1 if any answer was wrong, lost or late.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.machine import describe
from client import ZmqPolicyClient
from scripts.local.deployment import Deployment, await_ready
from scripts.local.link import Network
from scripts.local.load import Habits, Metronome, Outcome, Quota, Robot
from scripts.local.processes import ProcessError, Processes
from tests.chaos.monkey import Harm, Monkey
from tests.chaos.outcomes import Summary, summarize

RESULT = Path("benchmarks/results/chaos.json")
MARGIN_S = 5.0  # after its deadline, an `infer` that has not returned is lost
AFTERMATH = 5  # requests of each robot when all is well again
SETTLED_S = 15.0  # until then all workers must be ready again
_STEP_S = 0.01
# A robot finds its broker again 1 s after the way is free (the longest wait between attempts to
# connect); a broker needs a few seconds to start on a busy machine.
_RECOVERY_S = {"kill broker": 6.0}
_RECOVERY_OTHERWISE_S = 1.5


@dataclass(frozen=True)
class Plan:
    """How much, of what, how often."""

    requests: int = 10_000
    robots: int = 16
    workers: int = 4
    seed: int = 0
    period_s: float = 0.1  # of each robot
    pause_s: float = 0.7  # between faults, on average
    inference_s: float = 0.005
    deadlines_s: tuple[float, ...] = (0.2, 1.0, 1.0, 5.0, 5.0, 5.0)
    robot_links: int = 4


@dataclass(frozen=True)
class Report:
    """What a run has shown: under faults, of the faults, and after them."""

    plan: Plan
    seconds: float
    under_faults: Summary
    faults: dict[str, int]
    workers_back: int
    afterwards: Summary

    @property
    def is_clean(self) -> bool:
        """The promise was kept, and all is as it was before."""
        recovered = self.afterwards.right == self.afterwards.requests
        return self.under_faults.is_clean and recovered and self.workers_back == self.plan.workers


def run(plan: Plan, logs: Path, progress: Callable[[int], None]) -> Report:
    """Run it all. `progress` is told how many requests are done.

    Raises:
        ProcessError: a process did not start.
    """
    dice = random.Random(plan.seed)
    metronome = Metronome()
    metronome.start()
    with Processes(logs) as processes, Network() as network:
        settings = ["policy=echo", f"policy.time_s={plan.inference_s}"]
        stage = Deployment(
            processes, plan.workers, settings, network=network, robot_links=plan.robot_links
        )
        stage.wait_ready()
        _await_workers(stage, plan.workers)
        monkey = Monkey(stage, dice, plan.pause_s)
        started = time.monotonic()
        habits = Habits(plan.period_s, plan.deadlines_s)
        outcomes, stuck = _ask(stage, plan, habits, plan.requests, monkey.act, progress)
        seconds = time.monotonic() - started
        monkey.calm()

        def disturbed(outcome: Outcome) -> bool:
            return any(_explains(harm, outcome, stage) for harm in monkey.done)

        under_faults = summarize(outcomes, stuck, disturbed, metronome.stalled_s)
        stage.wait_ready()
        back = _await_workers(stage, plan.workers)
        after = _ask(stage, plan, Habits(0.0), AFTERMATH * plan.robots, lambda: None)
        afterwards = summarize(*after, lambda outcome: False, metronome.stalled_s)
    return Report(plan, seconds, under_faults, monkey.counts(), back, afterwards)


def _ask(
    stage: Deployment,
    plan: Plan,
    habits: Habits,
    requests: int,
    meanwhile: Callable[[], None],
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[list[Outcome], int]:
    """Have robots make so many requests; returns their outcomes, and how many never came back."""
    outcomes: list[Outcome] = []
    quota = Quota(requests)
    robots = [
        Robot(number, _door(stage, number), plan.seed, habits, quota.take, outcomes.append)
        for number in range(plan.robots)
    ]
    for robot in robots:
        robot.start()
    running, stuck = list(robots), 0
    while running:
        meanwhile()
        time.sleep(_STEP_S)
        progress(len(outcomes))
        for robot in [robot for robot in running if _is_stuck(robot)]:
            stuck += 1
            running.remove(robot)
        running = [robot for robot in running if robot.is_alive()]
    return list(outcomes), stuck


def _door(stage: Deployment, robot: int) -> int:
    return stage.robot_links[robot % len(stage.robot_links)].port


def _is_stuck(robot: Robot) -> bool:
    since = robot.asking_since
    return since is not None and time.monotonic() - since > robot.longest_s + MARGIN_S


def _explains(harm: Harm, outcome: Outcome, stage: Deployment) -> bool:
    """Whether a fault kept this robot from its broker to the end, or all but."""
    link = stage.robot_links[outcome.robot % len(stage.robot_links)]
    if harm.victim is not stage.broker and harm.victim is not link:
        return False
    over = harm.until + _RECOVERY_S.get(harm.fault.name, _RECOVERY_OTHERWISE_S)
    return harm.begun < outcome.ended < over


def _await_workers(stage: Deployment, expected: int) -> int:
    """Wait until the broker says that so many workers are ready; returns how many are."""
    with ZmqPolicyClient("127.0.0.1", stage.port) as client:
        return await_ready(client, expected, SETTLED_S)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    plan = Plan()
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    for name in ("requests", "robots", "workers", "seed"):
        default = getattr(plan, name)
        parser.add_argument(f"--{name}", type=int, default=default, help=f"({default})")
    parser.add_argument("--result", type=Path, default=RESULT, help=f"JSON file ({RESULT})")
    parser.add_argument("--logs", type=Path, default=Path("outputs/chaos"), help="folder for logs")
    return parser.parse_args(arguments)


def _show(console: Console, report: Report) -> None:
    console.print(report.under_faults.table("under faults"))
    faults = ", ".join(f"{name} {count}" for name, count in report.faults.items())
    console.print(f"{sum(report.faults.values())} faults in {report.seconds:.0f} s: {faults}")
    after, plan = report.afterwards, report.plan
    console.print(
        f"afterwards: {report.workers_back} of {plan.workers} workers are ready, "
        f"{after.right} of {after.requests} requests were answered right"
    )
    for example in (*report.under_faults.examples, *after.examples):
        console.print(example, style="red")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 clean, 1 not, or what kept it from running was said."""
    options = _parse(arguments)
    plan = Plan(options.requests, options.robots, options.workers, options.seed)
    console = Console(highlight=False)
    columns = (TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("", total=plan.requests)
            report = run(plan, options.logs, lambda done: progress.update(bar, completed=done))
    except ProcessError as error:
        print(error, file=sys.stderr)
        return 1
    _show(console, report)
    result: dict[str, Any] = {**describe(), **asdict(report), "clean": report.is_clean}
    options.result.parent.mkdir(parents=True, exist_ok=True)
    options.result.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
