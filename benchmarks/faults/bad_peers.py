"""What one badly behaved peer does to the others: a slow reader, floods, garbage.

python -m benchmarks.faults.bad_peers KIND PORT BACKEND     is one such peer, until it is killed
"""

from __future__ import annotations

import random
import sys
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import zmq

from benchmarks.faults.sustained import resident_kb
from benchmarks.figures import Figure
from client import ZmqPolicyClient
from client.body import encode_body
from client.wire import encode_header
from scripts.local.deployment import Deployment, await_ready
from scripts.local.load import RIGHT, Habits, Outcome, Robot
from scripts.local.processes import Processes
from scripts.local.timing import percentile
from tests.fuzz import vandal

TIMES_P50 = 1.5
MOST_MB = 50.0  # that a peer may make the broker grow by
_ROBOTS, _WORKERS, _PERIOD_S = 8, 4, 0.2
_INFERENCE_S = 0.02


def bad_peers(logs: Path, seconds: float, progress: Callable[[], None]) -> list[Figure]:
    """Latencies of well-behaved robots beside each kind of peer, and with none before and after."""
    figures = []
    with Processes(logs) as processes:
        settings = ["policy=echo", f"policy.time_s={_INFERENCE_S}"]
        stage = Deployment(processes, _WORKERS, settings)
        stage.wait_ready()
        with ZmqPolicyClient("127.0.0.1", stage.port) as client:
            await_ready(client, _WORKERS)
        calm = [_latencies(stage, seconds)]
        for kind in KINDS:
            before_kb = resident_kb(stage.broker)
            arguments = kind, str(stage.port), str(stage.back)
            peer = processes.start(f"bad peer {kind}", "benchmarks.faults.bad_peers", *arguments)
            peer.wait_ready()
            beside = _latencies(stage, seconds)
            grown_mb = (resident_kb(stage.broker) - before_kb) / 1024
            peer.kill()
            calm.append(_latencies(stage, seconds))
            progress()
            figures += _figures(kind, beside, calm, grown_mb)
    before = [outcome for run in calm for outcome in run]
    return [
        Figure(f"{_ROBOTS} robots, no bad peer: errors", _errors(before), "", 0),
        Figure("  p50", _milliseconds(50, before), "ms"),
        Figure("  p99", _milliseconds(99, before), "ms"),
        *figures,
    ]


def _figures(
    kind: str, beside: list[Outcome], calm: list[list[Outcome]], grown_mb: float
) -> list[Figure]:
    # Machines drift: compare with the runs right before and right after.
    neighbours = _milliseconds(50, calm[-2] + calm[-1])
    p50 = _milliseconds(50, beside)
    who = (KINDS[kind].__doc__ or kind).rstrip(".")
    return [
        Figure(f"beside {who[0].lower()}{who[1:]}: errors", _errors(beside), "", 0),
        Figure("  p50", p50, "ms"),
        Figure("  p50, times that without", p50 / neighbours, "", TIMES_P50),
        Figure("  p99", _milliseconds(99, beside), "ms"),
        Figure("  broker has grown by", grown_mb, "MB", MOST_MB),
    ]


def _latencies(stage: Deployment, seconds: float) -> list[Outcome]:
    outcomes: list[Outcome] = []
    until = time.monotonic() + seconds
    habits = Habits(_PERIOD_S, (5.0,), sides=(64,), policy="aloha_sim")
    robots = [
        Robot(number, stage.port, 0, habits, lambda: time.monotonic() < until, outcomes.append)
        for number in range(_ROBOTS)
    ]
    for robot in robots:
        robot.start()
    for robot in robots:
        robot.join()
    return outcomes


def _errors(outcomes: list[Outcome]) -> int:
    return sum(outcome.kind != RIGHT for outcome in outcomes)


def _milliseconds(rank: float, outcomes: list[Outcome]) -> float:
    took = [outcome.took_s * 1e3 for outcome in outcomes if outcome.kind == RIGHT]
    return percentile(rank)(took or [float("inf")])


def _asking(pixels: int, session: str, client: bytes, sequence: int) -> list[bytes | memoryview]:
    """An envelope's empty frame, header and body."""
    header = {
        "v": 1,
        "kind": "infer",
        "id": [client, sequence],
        "session": session,
        "policy": "aloha_sim",
        "buffers": True,
    }
    image = np.zeros((pixels, pixels, 3), np.uint8)
    return [b"", encode_header(header), *encode_body({"image": image})]


def _peer(port: int) -> zmq.Socket[bytes]:
    peer: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
    peer.setsockopt(zmq.RCVHWM, 1)
    peer.setsockopt(zmq.SNDHWM, 100)
    peer.connect(f"tcp://127.0.0.1:{port}")
    return peer


def _slow_reader(port: int, back: int) -> None:
    """A robot that asks 20 times a second for 1 MB and reads nothing."""
    peer = _peer(port)
    peer.setsockopt(zmq.RCVBUF, 4096)
    for sequence in range(sys.maxsize):
        peer.send_multipart(_asking(580, f"{sequence}", b"slow".ljust(16), sequence))
        time.sleep(0.05)


def _flood(port: int, back: int) -> None:
    """A robot that sends newer observations as fast as it can."""
    _send_for_ever(_peer(port), lambda sequence: ("one", b"flood".ljust(16)))


def _flood_of_sessions(port: int, back: int) -> None:
    """A robot that poses as a new robot with every request, as fast as it can."""
    _send_for_ever(_peer(port), lambda sequence: (f"{sequence}", uuid.uuid4().bytes))


def _send_for_ever(peer: zmq.Socket[bytes], pose: Callable[[int], tuple[str, bytes]]) -> None:
    for sequence in range(sys.maxsize):
        session, client = pose(sequence)
        peer.send_multipart(_asking(64, session, client, sequence))
        while peer.poll(0):
            peer.recv_multipart()


def _garbage(port: int, back: int) -> None:
    """A peer that sends garbage to both ports."""
    for seed, (door, as_robot) in enumerate(((port, True), (back, False))):
        harms = (
            partial(vandal.send_messages, port=door, kind=zmq.DEALER, as_robot=as_robot),
            partial(vandal.send_messages, port=door, kind=zmq.REQ, as_robot=as_robot),
            partial(vandal.send_bytes, port=door),
        )
        any_harm = partial(_one_of, harms)
        vandal.Vandal(seed, any_harm, threading.Event()).start()
    threading.Event().wait()


def _one_of(harms: Sequence[Callable[[random.Random], None]], dice: random.Random) -> None:
    dice.choice(harms)(dice)


KINDS: dict[str, Callable[[int, int], None]] = {
    "slow": _slow_reader,
    "flood": _flood,
    "sessions": _flood_of_sessions,
    "garbage": _garbage,
}


if __name__ == "__main__":
    print("ready", flush=True)
    KINDS[sys.argv[1]](int(sys.argv[2]), int(sys.argv[3]))
