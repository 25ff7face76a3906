"""A real control loop against a slow policy behind a broker: does a step ever wait?"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.figures import Figure, save, table
from client import ActionChunkBroker, AsyncActionChunkBroker, ZmqPolicyClient
from scripts.local.deployment import Deployment
from scripts.local.processes import Processes

CONTROL_HZ = 50.0
ACTIONS_PER_CHUNK = 25
INFERENCE_S, JITTER_S = 0.15, 0.05
BAR_MS = 1.0
POLICY = (
    "policy={_target_: benchmarks.closed_loop.slow_policy.SlowPolicy,"
    f" time_s: {INFERENCE_S}, jitter_s: {JITTER_S}}}"
)


def pace(seconds: float, output: Path, console: Console) -> int:
    """Drive both brokers for so long, print and save; 1 where a bar was missed."""
    with tempfile.TemporaryDirectory() as logs, Processes(Path(logs)) as processes:
        deployment = Deployment(processes, 1, [POLICY])
        deployment.wait_ready()
        with ZmqPolicyClient("127.0.0.1", deployment.port) as policy:
            waiting = ActionChunkBroker(policy, ACTIONS_PER_CHUNK)
            synchronous = drive(waiting.infer, seconds)
            broker = AsyncActionChunkBroker(policy, CONTROL_HZ, action_horizon=ACTIONS_PER_CHUNK)
            with broker:
                broker.infer(observation())
                overlapping = drive(broker.step, seconds)
            held = broker.statistics().held
    figures = [
        Figure("asynchronous: step(), p50", _percentile(overlapping, 50), "ms"),
        Figure("asynchronous: step(), p99", _percentile(overlapping, 99), "ms", BAR_MS),
        Figure("asynchronous: step(), longest", max(overlapping), "ms"),
        Figure("asynchronous: starved steps", held, "", 0),
        Figure("synchronous: infer(), p50", _percentile(synchronous, 50), "ms"),
        Figure("synchronous: infer(), p99", _percentile(synchronous, 99), "ms"),
        Figure("synchronous: steps longer than a control period", _late(synchronous), ""),
        Figure("steps of each", len(overlapping), ""),
    ]
    console.print(table("50 Hz against a policy of 150 ms, give or take 50", figures))
    save(output / "closed_loop_pace.json", "pace", figures)
    return 0 if all(figure.passes for figure in figures) else 1


def drive(act: Callable[[dict[str, Any]], Any], seconds: float) -> list[float]:
    """Call `act` at 50 Hz; the milliseconds of each call."""
    spent, due = [], time.perf_counter()
    for _ in range(round(seconds * CONTROL_HZ)):
        seen = observation()
        started = time.perf_counter()
        act(seen)
        ended = time.perf_counter()
        spent.append((ended - started) * 1e3)
        due = max(due + 1 / CONTROL_HZ, ended)
        time.sleep(max(0.0, due - time.perf_counter()))
    return spent


def observation() -> dict[str, Any]:
    """Three cameras and a state: 452 KB."""
    cameras = ("cam_high", "cam_left_wrist", "cam_right_wrist")
    images = {camera: np.zeros((3, 224, 224), np.uint8) for camera in cameras}
    return {"state": np.zeros(14, np.float32), "images": images, "prompt": "go"}


def _percentile(spent_ms: list[float], percent: float) -> float:
    return float(np.percentile(spent_ms, percent))


def _late(spent_ms: list[float]) -> int:
    return sum(spent > 1e3 / CONTROL_HZ for spent in spent_ms)
