"""A machine of a fleet is killed under load, again and again.

    python -m benchmarks.fleet

Ray nodes are faked on this machine, and one worker of each policy runs on each of them. Robots ask
without a pause that would hide a loss, and each answer is checked against its observation. A
node is killed, a new one takes its place, and so on. At the end a policy that nobody asked for is
woken. What it cannot show: machines of their own, whose network and clocks can fail as well.
"""

from __future__ import annotations

from conf.flags import Flags, between, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.machine import describe
from client import ZmqPolicyClient
from scripts.local.load import RIGHT, Habits, Metronome, Outcome, Robot
from scripts.local.processes import ProcessError, Processes, free_ports
from tests.scripts.fleet.machines import ENVIRONMENT, WAIT_S, Machines

RESULT = Path(__file__).parent / "results" / "fleet.json"
LOGS = Path("outputs/fleet-benchmark")
_NAME = "benchmark"
_STEP_S = 0.1
_HEAD = {"num_cpus": 1, "labels": {"zone": "head"}}
_NODE = {"num_cpus": 1, "resources": {"arms": 4}}


@dataclass(frozen=True)
class Kill:
    """One machine's death: until all workers were ready again, and the longest answer meanwhile."""

    workers_lost: int
    back_s: float
    longest_s: float


@dataclass(frozen=True)
class Report:
    """What a run has shown; `woken_s` is how long the first robot of a sleeping policy waited."""

    nodes: int
    workers: int
    robots: int
    requests: int
    outcomes: dict[str, int]
    kills: list[Kill]
    woken_s: float
    load: float

    @property
    def is_clean(self) -> bool:
        """Nothing was wrong or lost."""
        return self.outcomes == {RIGHT: self.requests}


class Stage:
    """The machines and a fleet on them."""

    def __init__(self, processes: Processes, nodes: int, workers: int) -> None:
        """Start them, and wait until all workers are ready."""
        self.front, back = free_ports(2)
        self.workers = workers
        self.machines = Machines(processes, [_HEAD, *[_NODE] * nodes])
        file = LOGS / "fleet.yaml"
        none = {"num_cpus": 0, "num_gpus": 0}
        echo = {"worker": ["policy=echo", "policy.time_s=0.02"], "min": workers, "max": workers}
        fleet = {
            "name": _NAME,
            "logs": str(LOGS.resolve()),
            "policies": {
                "echo": {**echo, **none, "resources": {"arms": 1}},
                "sleepy": {"worker": ["policy=noop"], "min": 0, **none},
            },
            "brokers": {
                "main": {"frontend": self.front, "backend": back, "labels": {"zone": "head"}}
            },
            "ray": {"address": self.machines.address, "timeout_s": WAIT_S},
        }
        file.write_text(json.dumps(fleet))  # which is YAML as well
        self.file = file
        self.command("up")
        self.until(lambda: len(self.ready()) == workers, "the workers")

    def command(self, word: str) -> None:
        """Run `python -m scripts.fleet WORD`.

        Raises:
            ProcessError: it failed.
        """
        words = [sys.executable, "-m", "scripts.fleet", word, f"file={self.file}"]
        environment = {**os.environ, **ENVIRONMENT}
        done = subprocess.run(
            words, capture_output=True, text=True, check=False, timeout=WAIT_S, env=environment
        )
        if done.returncode:
            raise ProcessError(f"{word}: {done.stderr}")

    def ready(self, but_not_on: str = "none") -> list[dict[str, Any]]:
        """The workers of echo that are ready, but for those on one node."""
        members = self.machines.state(_NAME)["members"]
        return [
            each
            for each in members
            if each["group"] == "echo"
            and each["state"] == "ready"
            and not each["node"].endswith(but_not_on)
        ]

    def until(self, is_true: Callable[[], object], what: str) -> None:
        """Return once it is.

        Raises:
            ProcessError: it never was.
        """
        give_up = time.monotonic() + WAIT_S
        while not is_true():
            if time.monotonic() > give_up:
                raise ProcessError(f"never: {what}: {self.machines.state(_NAME)}")
            time.sleep(_STEP_S)

    def kill_one(self, outcomes: Sequence[Outcome]) -> Kill:
        """Kill the node with most workers, add another, and wait until all are ready elsewhere."""
        nodes = Counter(each["node"].rpartition("/")[2] for each in self.ready())
        dead, lost = nodes.most_common(1)[0]
        begun, before = time.monotonic(), len(outcomes)
        self.machines.kill(dead)
        self.machines.add(_NODE)
        self.until(lambda: len(self.ready(dead)) == self.workers, "all workers again")
        back_s = time.monotonic() - begun
        time.sleep(2.0)  # what was asked before has been answered
        longest_s = max((each.took_s for each in list(outcomes)[before:]), default=0.0)
        return Kill(lost, round(back_s, 2), round(longest_s, 3))


def run(nodes: int, workers: int, robots: int, kills: int) -> Report:
    """Run it all.

    Raises:
        ProcessError: something did not start, or never came back.
    """
    Metronome().start()
    with Processes(LOGS) as processes:
        stage = Stage(processes, nodes, workers)
        outcomes: list[Outcome] = []
        goes_on = True
        habits = Habits(0.1, (60.0,), (8, 224), policy="echo")
        asking = [
            Robot(number, stage.front, 0, habits, lambda: goes_on, outcomes.append)
            for number in range(robots)
        ]
        for robot in asking:
            robot.start()
        stage.until(lambda: len(outcomes) > robots, "answers")
        deaths = [stage.kill_one(outcomes) for _ in range(kills)]
        goes_on = False
        for robot in asking:
            robot.join(WAIT_S)
        kinds = Counter(outcome.kind for outcome in outcomes)
        kinds["never came back"] += sum(robot.is_alive() for robot in asking)
        woken_s = _wake(stage)
        stage.command("down")
        stage.machines.stop()
    counts = {kind: count for kind, count in kinds.items() if count}
    load = round(os.getloadavg()[0], 1)
    return Report(
        nodes, workers, robots, sum(counts.values()), counts, deaths, round(woken_s, 2), load
    )


def _wake(stage: Stage) -> float:
    with ZmqPolicyClient("127.0.0.1", stage.front, policy="sleepy") as robot:
        begun = time.monotonic()
        robot.infer({"state": np.zeros(14, np.float32)}, deadline_s=WAIT_S)
        return time.monotonic() - begun


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0 clean, 1 not."""
    parser = Flags("python -m benchmarks.fleet", __doc__)
    for name, default in (("nodes", 3), ("workers", 3), ("robots", 8), ("kills", 3)):
        parser.add_argument(
            f"--{name}", type=between(1, 64), default=default, help=f"how many ({default})"
        )
    options = parser.parse_args(arguments)
    LOGS.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False)
    try:
        with console.status("machines are started and killed: a few minutes"):
            report = run(options.nodes, options.workers, options.robots, options.kills)
    except ProcessError as error:
        print(error, file=sys.stderr)
        return 1
    for number, kill in enumerate(report.kills, 1):
        console.print(
            f"machine {number} killed with {kill.workers_lost} workers: all ready again after "
            f"{kill.back_s:.1f} s, longest answer {kill.longest_s:.2f} s"
        )
    console.print(f"{report.requests} requests: {report.outcomes}")
    console.print(f"a sleeping policy's first answer: {report.woken_s:.1f} s; load {report.load}")
    RESULT.write_text(json.dumps({**describe(), **asdict(report)}, indent=1) + "\n")
    return 0 if report.is_clean else 1


if __name__ == "__main__":
    run_command(main)
