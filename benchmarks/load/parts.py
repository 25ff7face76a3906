"""What is measured: scaling over workers, a crowd at a slow pace, and goodput against load."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from benchmarks.load import websocket_robots
from benchmarks.load.kinds import Kind, population
from benchmarks.load.robots import Order, Robots
from benchmarks.load.tally import Tally
from benchmarks.load.watch import Watch
from benchmarks.openpi_venv import openpi_environment, openpi_python
from benchmarks.transport.observations import make_observation
from client import ZmqPolicyClient
from scripts.local.deployment import Deployment, await_ready
from scripts.local.processes import Processes, free_ports
from scripts.local.timing import percentile

INFERENCE_S = 0.05
LOADS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
JUDGED = 1.5  # times saturation
OPENPI = "openpi, a server for each group"
Progressing = Callable[[str], None]
# FCFS keeps what nobody waits for any more, and robots at a broker without keys have two requests.
_ROOM = (
    "limits.max_requests_per_robot=10000",
    "limits.max_bytes_per_robot=4000000000",
    "limits.max_total_bytes=4000000000",
)


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    seconds: float = 5.0
    warm_s: float = 2.0
    workers: int = 8
    loads: Sequence[float] = LOADS
    robots: int = 200


QUICK = Size(seconds=1.0, warm_s=0.3, workers=2, loads=(0.5, JUDGED), robots=20)


@dataclass(frozen=True)
class Found:
    """A part's figures, and what else is saved of it."""

    figures: list[Figure]
    more: dict[str, Any]


def scaling(logs: Path, size: Size, step: Progressing) -> Found:
    """Answers a second by 8, 4, 2 and 1 workers of 50 ms, and what the broker itself can do."""
    observation = make_observation("libero")
    rates: dict[int, float] = {}
    others: list[float] = []
    with Processes(logs) as processes:
        stage = _stage(processes, size.workers, INFERENCE_S)
        count = size.workers
        while count:
            step(f"{count} workers of {INFERENCE_S * 1e3:.0f} ms")
            # Two robots for each worker: one is being served while the other asks.
            with Robots(stage.port, _at_once(2 * count), observation) as robots:
                tally = _watched(robots, processes, stage, size)
                rates[count] = tally.answers_per_s(robots.wishes)
            others.append(tally.others_cores)
            count = _halve(stage, count)
    step("the broker's limit")
    with Processes(logs) as processes:
        stage = _stage(processes, 2, 0.0)
        with Robots(stage.port, _at_once(16), observation) as robots:
            tally = _watched(robots, processes, stage, size)
            limit = tally.answers_per_s(robots.wishes)
    figures = scaling_figures(rates, limit, tally.threads)
    more = {"broker_threads": tally.threads, "others_cores": max([*others, tally.others_cores])}
    return Found(figures, more)


def scaling_figures(
    rates: dict[int, float], limit: float, threads: dict[str, float]
) -> list[Figure]:
    """From answers a second by workers, the broker's most, and the cores its threads used then."""
    busiest = max(threads, key=lambda thread: threads[thread])
    bound = limit / threads[busiest]
    figures = [Figure(f"{each} workers", rate, "a second") for each, rate in sorted(rates.items())]
    for each, rate in sorted(rates.items())[1:]:
        figures.append(Figure(f"{each} workers, of linear", rate / rates[1] / each, "", 0.95, True))
        figures.append(Figure("  of what 50 ms allow", rate * INFERENCE_S / each))
    figures += [
        Figure("one broker, two workers that answer at once", limit, "a second"),
        Figure(
            f"  its busiest thread ({busiest.rpartition(' ')[0]}) used",
            threads[busiest],
            "cores",
        ),
        Figure("  so a whole core for that thread would carry", bound, "a second"),
    ]
    return figures


def crowd(logs: Path, size: Size, step: Progressing) -> Found:
    """Many robots at 1 Hz with 301 KB, and workers that answer at once."""
    step(f"{size.robots} robots at 1 Hz")
    with Processes(logs) as processes:
        stage = _stage(processes, 2, 0.0)
        kinds = [Kind("1 Hz", 1.0, 1.0)] * size.robots
        with Robots(stage.port, kinds, make_observation("libero")) as robots:
            tally = _watched(robots, processes, stage, size)
    added, answered = tally.added_ms, tally.outcomes["answered"]
    figures = [
        Figure(f"{size.robots} robots at 1 Hz, 301 KB: asked", tally.wished, "a second"),
        Figure("  not answered in time", len(tally.wishes) - answered, "", 0),
        Figure("  added to the policy's own time, p50", percentile(50)(added), "ms"),
        Figure("  added to the policy's own time, p99", percentile(99)(added), "ms", 10.0),
        Figure("  the broker's threads together", sum(tally.threads.values()), "cores"),
    ]
    return Found(figures, {"others_cores": tally.others_cores, "outcomes": dict(tally.outcomes)})


def goodput(logs: Path, size: Size, step: Progressing) -> Found:
    """The share of wishes answered in time, against load, for three ways of serving them."""
    observation, capacity = make_observation("libero"), size.workers / INFERENCE_S
    curves: dict[str, dict[float, Tally]] = {}
    with Processes(logs) as processes:
        stage = _stage(processes, size.workers, INFERENCE_S)
        for order in Order:
            for load in size.loads:
                step(f"{order.value} at {load:g} of what {size.workers} workers can")
                _empty(stage)
                kinds = population(load, capacity)
                with Robots(stage.port, kinds, observation, order) as robots:
                    tally = _watched(robots, processes, stage, size)
                curves.setdefault(order.value, {})[load] = tally
    with Processes(logs) as processes:
        ports = free_ports(size.workers)
        for port in ports:
            command = [str(openpi_python()), "-m", "benchmarks.load.openpi_server"]
            processes.start_command(
                f"openpi {port}",
                [*command, str(port), str(INFERENCE_S)],
                environment=openpi_environment(),
            )
        asyncio.run(websocket_robots.wait_for_servers(ports))
        for load in size.loads:
            step(f"{OPENPI} at {load:g}")
            watch = Watch(processes.all, None)
            kinds = population(load, capacity)
            tally = websocket_robots.run(ports, kinds, observation, size.warm_s, size.seconds)
            tally.others_cores = watch.others_cores()
            curves.setdefault(OPENPI, {})[load] = tally
    return Found(goodput_figures(curves, size), _goodput_rows(curves, size))


def goodput_figures(curves: dict[str, dict[float, Tally]], size: Size) -> list[Figure]:
    """For each load and way the share in time, and how ours compares at `JUDGED`."""
    figures = []
    for load in size.loads:
        for way, tallies in curves.items():
            tally = tallies[load]
            name = f"{way}, {tally.robots} robots, load {load:g}"
            figures.append(Figure(f"{name}: in time", 100.0 * tally.share_in_time, "%"))
    ours, fcfs = (curves[order.value][JUDGED].goodput for order in Order)
    # Where first come first served answers nothing in time, any is more than twice as much.
    ratio = ours / max(fcfs, 1.0 / size.seconds)
    figures.append(
        Figure(f"goodput at {JUDGED:g}, ours to first come first served", ratio, "", 2.0, True)
    )
    ideal = ours * INFERENCE_S / size.workers
    figures.append(Figure("  ours, of all that the workers can", 100.0 * ideal, "%"))
    return figures


def _goodput_rows(curves: dict[str, dict[float, Tally]], size: Size) -> dict[str, Any]:
    rows = [
        {
            "way": way,
            "load": load,
            "robots": tally.robots,
            "wished_per_s": tally.wished,
            "in_time": tally.share_in_time,
            "goodput_per_worker_per_s": tally.goodput / size.workers,
            "outcomes": dict(tally.outcomes),
            "others_cores": tally.others_cores,
        }
        for way, tallies in curves.items()
        for load, tally in tallies.items()
    ]
    busiest = max(tally.others_cores for each in curves.values() for tally in each.values())
    return {
        "workers": size.workers,
        "inference_s": INFERENCE_S,
        "others_cores": busiest,
        "curve": rows,
    }


def _stage(processes: Processes, workers: int, time_s: float) -> Deployment:
    settings = ["policy=noop", f"policy.time_s={time_s}"]
    stage = Deployment(processes, workers, settings, broker_settings=_ROOM)
    stage.wait_ready()
    _await(stage, workers)
    return stage


def _await(stage: Deployment, workers: int) -> None:
    with ZmqPolicyClient("127.0.0.1", stage.port) as client:
        ready = await_ready(client, workers)
    if ready != workers:
        raise RuntimeError(
            f"{ready} of {workers} workers are ready: see {stage.broker.process.log}"
        )


def _halve(stage: Deployment, count: int) -> int:
    """End half of the workers; returns how many are left, 0 after the last."""
    left = count // 2
    for place in stage.workers[left:count]:
        place.process.terminate()
    if left:
        _await(stage, left)
    return left


def _empty(stage: Deployment) -> None:
    """Wait until the broker has nothing in hand any more, so that no run gets another's rest."""
    with ZmqPolicyClient("127.0.0.1", stage.port) as client:
        while (status := client.status())["queues"] or any(
            worker["in_hand"] for worker in status["workers"]
        ):
            time.sleep(0.1)


def _at_once(robots: int) -> list[Kind]:
    return [Kind("back to back", 0.0, 10.0)] * robots


def _watched(robots: Robots, processes: Processes, stage: Deployment, size: Size) -> Tally:
    alive = [process for process in processes.all if process.is_alive()]
    watch = Watch(alive, stage.broker.process)
    tally = robots.run(size.warm_s, size.seconds)
    tally.others_cores, tally.threads = watch.others_cores(), watch.broker_cores()
    return tally
