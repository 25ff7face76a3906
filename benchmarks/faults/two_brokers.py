"""What robots notice of a broker that is killed, or restarted as planned, beside another one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Figure
from client import ZmqPolicyClient
from scripts.local.deployment import Place, await_ready
from scripts.local.load import RIGHT, Habits, Outcome, Robot
from scripts.local.processes import Processes, free_ports
from scripts.local.timing import percentile

KILLED_MS, RESTARTED_MS = 300.0, 100.0
_ROBOTS, _WORKERS = 8, 2
_PERIOD_S, _DEADLINE_S, _INFERENCE_S = 0.1, 1.0, 0.01
_CALM_S = 2.0  # of load before each fault, and with the first broker gone
_RETURN_S = 6.0  # after it is up: all robots have gone back by then
_SIDES = (64, 224)
_ASKED, _REST_S = 200, 0.005  # requests of one slot, and the pause before each


def two_brokers(logs: Path, repeats: int, progress: Callable[[], None]) -> list[Figure]:
    """The first of two brokers is killed and started, stopped and started; `repeats` times each.

    Both have the same workers, and all robots prefer the first one.
    """
    moved = _moving_a_slot(logs)
    progress()
    outcomes: list[Outcome] = []
    killed: list[float] = []
    restarted: list[float] = []
    with Processes(logs) as processes:
        ends = free_ports(4)
        ports = ends[:2]
        first, second, *workers = _places(processes, ports, ends[2:])
        over = threading.Event()
        for place in (first, second, *workers):
            place.start()
        for place in (first, second, *workers):
            place.process.wait_ready()
        for port in ports:
            with ZmqPolicyClient("127.0.0.1", port) as client:
                await_ready(client, _WORKERS)
        robots = [
            Robot(
                number,
                ports,
                0,
                Habits(_PERIOD_S, (_DEADLINE_S,), _SIDES),
                lambda: not over.is_set(),
                outcomes.append,
            )
            for number in range(_ROBOTS)
        ]
        for robot in robots:
            robot.start()
        for _ in range(repeats):
            time.sleep(_CALM_S)
            killed.append(first.kill())
            time.sleep(_CALM_S)
            first.start().wait_ready()
            time.sleep(_RETURN_S)
            progress()
            restarted.append(time.monotonic())
            first.process.terminate()
            first.process.wait(_RETURN_S)
            first.start().wait_ready()
            time.sleep(_RETURN_S)
            progress()
        over.set()
        for robot in robots:
            robot.join()
    wrong = sum(outcome.kind != RIGHT for outcome in outcomes)
    calm = [outcome.took_s * 1e3 for outcome in outcomes]
    after_kill, after_restart = _slowest(outcomes, killed), _slowest(outcomes, restarted)
    return [
        *moved,
        Figure("two brokers: requests asked", len(outcomes)),
        Figure(f"two brokers: not answered right within {_DEADLINE_S:g} s", wrong, "", 0),
        Figure("two brokers: an answer, p50", percentile(50)(calm), "ms"),
        Figure("two brokers: an answer, p99", percentile(99)(calm), "ms"),
        Figure("first killed: slowest answer of any robot, p50", percentile(50)(after_kill), "ms"),
        Figure("first killed: slowest answer of any robot, max", max(after_kill), "ms", KILLED_MS),
        Figure(
            "planned restart: slowest answer of any robot, p50", percentile(50)(after_restart), "ms"
        ),
        Figure(
            "planned restart: slowest answer of any robot, max",
            max(after_restart),
            "ms",
            RESTARTED_MS,
        ),
    ]


def _moving_a_slot(logs: Path) -> list[Figure]:
    """What it costs that a worker's only slot is where it was needed last."""
    stays: list[float] = []
    moves: list[float] = []
    with Processes(logs) as processes:
        ends = free_ports(4)
        places = _places(processes, ends[:2], ends[2:], workers=1, inference_s=0.0)
        for place in places:
            place.start()
        for place in places:
            place.process.wait_ready()
        clients = [ZmqPolicyClient("127.0.0.1", port) for port in ends[:2]]
        for client in clients:
            await_ready(client, 1)
        for client, took in [(clients[0], stays)] * _ASKED + [
            (clients[number % 2], moves) for number in range(_ASKED)
        ]:
            began = time.monotonic()
            client.infer({"number": 0})
            took.append((time.monotonic() - began) * 1e3)
            time.sleep(_REST_S)
        for client in clients:
            client.close()
    return [
        Figure("one slot, asked by one broker: an answer, p50", percentile(50)(stays), "ms"),
        Figure("one slot, asked by two in turn: an answer, p50", percentile(50)(moves), "ms"),
        Figure("one slot, asked by two in turn: an answer, p99", percentile(99)(moves), "ms"),
    ]


def _places(
    processes: Processes,
    fronts: list[int],
    backs: list[int],
    workers: int = _WORKERS,
    inference_s: float = _INFERENCE_S,
) -> list[Place]:
    brokers = [
        Place(
            processes,
            f"broker {name}",
            "broker",
            f"frontend=tcp://127.0.0.1:{front}",
            f"backend=tcp://127.0.0.1:{back}",
        )
        for name, front, back in zip("ab", fronts, backs, strict=True)
    ]
    addresses = ",".join(f"tcp://127.0.0.1:{back}" for back in backs)
    policy = ("policy=echo", f"policy.time_s={inference_s}")
    own = ("env=aloha_sim", "model=tiny", *policy, f"broker=[{addresses}]")
    return [
        *brokers,
        *(Place(processes, f"worker {number}", "worker", *own) for number in range(workers)),
    ]


def _slowest(outcomes: list[Outcome], moments: list[float]) -> list[float]:
    """Of each moment: the longest that a request took which was under way then or soon after."""
    found = []
    for moment in moments:
        until = moment + _CALM_S + _RETURN_S
        took = [
            outcome.took_s * 1e3
            for outcome in outcomes
            if outcome.ended > moment and outcome.started < until
        ]
        found.append(max(took, default=_DEADLINE_S * 1e3))
    return found
