"""The broker's status as an operator sees it: the answer to a client's `status`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from broker.inflight import InFlight
from broker.states import RequestState
from broker.telemetry import RobotRecord, Telemetry
from broker.workers import Pool, Worker

WINDOW_S = 60.0  # the latencies of this last minute are shown
_MOST = 256  # rows in each list of a report


def report(telemetry: Telemetry, pool: Pool, inflight: InFlight, now: float) -> dict[str, Any]:
    """Workers, robots, queues, latencies and counters, in at most about 100 KB."""
    recent = [entry for entry in telemetry.latencies if entry[0] > now - WINDOW_S]
    states = Counter((request.id.client, request.state) for request in inflight.requests.values())
    newest = list(telemetry.robots.items())[::-1]
    workers = sorted(pool.by_id.values(), key=lambda worker: (worker.policy, worker.id))
    return {
        "uptime_s": round(now - telemetry.started_at, 1),
        "workers": [_worker(worker, now) for worker in workers[:_MOST]],
        "workers_in_all": len(workers),
        "robots": [_robot(client, robot, states, now) for client, robot in newest],
        "queues": {
            policy or "(none named)": len(queue)
            for policy, queue in list(inflight.waiting.queues.items())[:_MOST]
        },
        "window_s": WINDOW_S,
        "latency_ms": {
            "queue": _spread([entry[1] for entry in recent]),
            "worker": _spread([entry[2] for entry in recent]),
        },
        "counters": dict(sorted(telemetry.counters.items())),
    }


def _worker(worker: Worker, now: float) -> dict[str, Any]:
    return {
        "name": worker.policy,
        "id": worker.id.hex()[:8],
        "state": worker.state.value,
        "slots": worker.slots,
        "in_hand": len(worker.in_hand),
        "mean_ms": round(worker.mean_s * 1e3, 3),
        "heard_ms_ago": round((now - worker.heard_at) * 1e3, 1),
    }


def _robot(
    client: bytes, robot: RobotRecord, states: Mapping[tuple[bytes, RequestState], int], now: float
) -> dict[str, Any]:
    return {
        "name": robot.name,
        "key": robot.key,
        "id": client.hex()[:8],
        "policy": robot.policy,
        "requests": robot.requests,
        "waiting": states.get((client, RequestState.WAITING), 0),
        "in_hand": states.get((client, RequestState.LEASED), 0),
        "seen_s_ago": round(now - robot.seen_at, 3),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile (nearest rank) and largest; zeros where there is nothing."""
    ordered = sorted(values) or [0.0]
    ranks = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    last = len(ordered) - 1
    spread = {name: round(ordered[round(rank * last)], 3) for name, rank in ranks.items()}
    return {**spread, "count": float(len(values))}
