"""How fast a death is noticed, and how fast the dead one's work is done by another."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Figure
from client import ZmqPolicyClient
from scripts.local.deployment import Deployment, Place, await_ready, count_ready
from scripts.local.load import RIGHT, Habits, Outcome, Robot, make_observation
from scripts.local.processes import Processes
from scripts.local.timing import percentile

INFERENCE_S = 0.1
NOTICED_MS, MOVED_MS, SERVED_AGAIN_MS = 50.0, 100.0, 1500.0
_ROBOTS = 8


class Killer(threading.Thread):
    """Kills the worker that says that it is busy, at some moment of its inference; once."""

    def __init__(self, port: int, dice: random.Random) -> None:
        super().__init__(name="killer", daemon=True)
        self.pid, self.struck = 0, 0.0
        self._after_s = dice.uniform(0.0, 0.9) * INFERENCE_S
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self.port = int(self._socket.getsockname()[1])

    def run(self) -> None:
        """Wait, strike."""
        with self._socket:
            self.pid = int(self._socket.recv(20))
            time.sleep(self._after_s)
            self.struck = time.monotonic()
            os.kill(self.pid, signal.SIGKILL)


def worker_killed(logs: Path, repeats: int, progress: Callable[[], None]) -> list[Figure]:
    """A worker is killed while idle, and while it has a request in hand; `repeats` times each.

    Raises:
        RuntimeError: the killed worker's answer came through, so nothing was measured.
    """
    dice = random.Random(0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as finder:
        finder.bind(("127.0.0.1", 0))
        port = int(finder.getsockname()[1])
    settings = [
        "policy=noop",
        "policy._target_=benchmarks.faults.busy_policy.BusyPolicy",
        f"policy.time_s={INFERENCE_S}",
        f"+policy.port={port}",
    ]
    noticed, moved = [], []
    with Processes(logs) as processes:
        stage = Deployment(processes, 3, settings)
        stage.wait_ready()
        with ZmqPolicyClient("127.0.0.1", stage.port) as client:
            for _ in range(repeats):
                await_ready(client, len(stage.workers))
                noticed.append(_kill_idle(client, dice.choice(stage.workers)))
                await_ready(client, len(stage.workers))
                moved.append(_kill_busy(client, stage, Killer(port, dice), dice))
                progress()
    allowed = MOVED_MS + INFERENCE_S * 1e3
    return [
        Figure("worker killed idle: no work for it after, p50", percentile(50)(noticed), "ms"),
        Figure("worker killed idle: no work for it after, max", max(noticed), "ms", NOTICED_MS),
        Figure("worker killed busy: answered by another, p50", percentile(50)(moved), "ms"),
        Figure("worker killed busy: answered by another, max", max(moved), "ms", allowed),
    ]


def _kill_idle(client: ZmqPolicyClient, victim: Place) -> float:
    """Milliseconds until the broker no longer counts the worker among those to be given work."""
    before = count_ready(client)
    struck = victim.kill()
    while count_ready(client) == before:
        time.sleep(0.001)
    took_ms = (time.monotonic() - struck) * 1e3
    victim.start()
    return took_ms


def _kill_busy(
    client: ZmqPolicyClient, stage: Deployment, killer: Killer, dice: random.Random
) -> float:
    """Milliseconds from the death of the worker that has a request to the other's answer."""
    killer.start()
    result = client.infer(make_observation(dice, 0), deadline_s=10.0)
    answered = time.monotonic()
    killer.join()
    if int(result["actions"][0, 0]) == killer.pid:
        raise RuntimeError("the worker answered before it was killed")
    for place in stage.workers:
        if place.process.pid == killer.pid:
            place.kill()
            place.start()
    return (answered - killer.struck) * 1e3


def broker_killed(logs: Path, repeats: int, progress: Callable[[], None]) -> list[Figure]:
    """The broker is killed and started again, while robots ask ten times a second."""
    served_again, failed = [], 0
    with Processes(logs) as processes:
        stage = Deployment(processes, 2, ["policy=echo", "policy.time_s=0.005"])
        stage.wait_ready()
        outcomes: list[Outcome] = []
        over = threading.Event()
        habits = Habits(0.1, (10.0,))
        robots = [
            Robot(number, stage.port, 0, habits, lambda: not over.is_set(), outcomes.append)
            for number in range(_ROBOTS)
        ]
        for robot in robots:
            robot.start()
        for _ in range(repeats):
            time.sleep(2.0)
            stage.broker.kill()
            stage.broker.start().wait_ready()
            up = time.monotonic()
            while len(_first_after(outcomes, up)) < _ROBOTS and time.monotonic() < up + 12.0:
                time.sleep(0.01)
            first = _first_after(outcomes, up)
            served_again.append((max(first.values(), default=up + 12.0) - up) * 1e3)
            progress()
        over.set()
        for robot in robots:
            robot.join()
        failed = sum(outcome.kind != RIGHT for outcome in outcomes)
    return [
        Figure(
            "broker restarted: last robot served after it is up, p50",
            percentile(50)(served_again),
            "ms",
        ),
        Figure(
            "broker restarted: last robot served after it is up, max",
            max(served_again),
            "ms",
            SERVED_AGAIN_MS,
        ),
        Figure("broker restarted: requests asked", len(outcomes)),
        Figure("broker restarted: requests lost inside their 10 s", failed, "", 0),
    ]


def _first_after(outcomes: list[Outcome], moment: float) -> dict[int, float]:
    """When each robot got its first right answer after a moment."""
    first: dict[int, float] = {}
    for outcome in list(outcomes):
        if outcome.ended > moment and outcome.kind == RIGHT:
            first.setdefault(outcome.robot, outcome.ended)
    return first
