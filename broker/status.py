"""The broker's status as an operator sees it: the answer to a client's `status`."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from broker.fairness import Account
from broker.inflight import InFlight
from broker.states import RequestState, WorkerState
from broker.telemetry import BUCKETS_MS, STAGES, PolicyRecord, RobotRecord, Telemetry
from broker.workers import Pool, Worker

WINDOW_S = 60.0  # the latencies of this last minute are shown
_MOST = 256  # rows in each list of a report
_IN_HAND = 8  # robots named of each worker


def report(
    telemetry: Telemetry,
    pool: Pool,
    inflight: InFlight,
    errors: Sequence[tuple[int, str, str, str, str]],
    now: float,
) -> dict[str, Any]:
    """Workers, robots, queues, latencies, errors and counters, in at most a few 100 KB."""
    telemetry.count_answers()
    recent = [entry for entry in telemetry.latencies if entry[0] > now - WINDOW_S]
    by_policy: dict[str, list[float]] = defaultdict(list)
    for _, queue_ms, worker_ms, policy in recent:
        by_policy[policy].append(queue_ms + worker_ms)
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
        "buckets_ms": list(BUCKETS_MS),
        "policies": {
            policy or "(none named)": _policy(policy, telemetry, inflight, by_policy.get(policy))
            for policy in itertools.islice(_policies(telemetry, inflight), _MOST)
        },
        "teams": _teams(inflight),
        "errors": [
            {"number": number, "robot": robot, "policy": policy, "code": code, "message": message}
            for number, robot, policy, code, message in errors
        ],
    }


def demand(
    telemetry: Telemetry,
    pool: Pool,
    inflight: InFlight,
    wait_s: Callable[[str | None, int], float],
    now: float,
) -> dict[str, dict[str, Any]]:
    """For each known policy, what whoever starts and stops its workers has to know.

    `wait_ms` is how long a request that comes now is predicted to wait (0 if no worker is ready),
    `asked_s_ago` when a robot last asked for actions or metadata (None: never), `slots` and
    `in_hand` are those of the ready workers.
    """
    return {
        policy: _demand(policy, telemetry, pool, inflight, wait_s, now)
        for policy in itertools.islice(pool.by_policy, _MOST)
    }


def _demand(
    policy: str,
    telemetry: Telemetry,
    pool: Pool,
    inflight: InFlight,
    wait_s: Callable[[str | None, int], float],
    now: float,
) -> dict[str, Any]:
    workers = pool.serving(policy)
    ready = [worker for worker in workers if worker.state is WorkerState.READY]
    waiting, asked_at = inflight.waiting.waiting_for(policy), telemetry.asked_at.get(policy)
    return {
        "waiting": waiting,
        "wait_ms": round(wait_s(policy, waiting) * 1e3, 1),
        "asked_s_ago": None if asked_at is None else round(now - asked_at, 3),
        "workers": len(workers),
        "ready": len(ready),
        "slots": sum(worker.slots for worker in ready),
        "in_hand": sum(len(worker.in_hand) for worker in workers),
    }


def _teams(inflight: InFlight) -> list[dict[str, Any]]:
    """What each team has and had; "" are those in none. Empty while nobody is told apart."""
    fairness = inflight.fairness
    names = sorted({*fairness.teams, *fairness.accounts}) if fairness.is_on else []
    in_hand = Counter(request.lane.team for request in inflight.requests.values())
    rows = []
    for name in names[:_MOST]:
        account, team = fairness.accounts.get(name) or Account(), fairness.teams.get(name)
        rows.append(
            {
                "name": name,
                "weight": 1.0 if team is None else float(team.weight),
                "in_hand": in_hand[name],
                "inference_s": {key: round(each, 3) for key, each in account.inference_s.items()},
                "refused": dict(account.refused),
            }
        )
    return rows


def _policies(telemetry: Telemetry, inflight: InFlight) -> list[str]:
    return sorted({*telemetry.policies, *(policy for policy, _ in inflight.outcomes)})


def _policy(
    policy: str, telemetry: Telemetry, inflight: InFlight, latencies: Sequence[float] | None
) -> dict[str, Any]:
    """`latencies`: of its live requests in the last minute, from arrival to answer, in ms."""
    record = telemetry.policies.get(policy) or PolicyRecord()
    return {
        **({"latency_ms": _spread(latencies)} if policy and latencies else {}),
        "outcomes": {
            state: count for (named, state), count in inflight.outcomes.items() if named == policy
        },
        "stages": {
            name.removesuffix("_ms"): {"counts": stage.counts, "sum_ms": round(stage.sum_ms, 3)}
            for name, stage in record.stages.items()
            if any(stage.counts)
        },
        "held": record.held,
        "guards": {"clipped": dict(record.clipped), "refused": dict(record.refused)},
        "batches": {str(size): count for size, count in sorted(record.batches.items())},
    }


def _worker(worker: Worker, now: float) -> dict[str, Any]:
    return {
        "name": worker.policy,
        "id": worker.id.hex()[:8],
        "state": worker.state.value,
        "slots": worker.slots,
        "in_hand": len(worker.in_hand),
        "robots": [lease.request.header.get("robot", "") for lease in worker.in_hand.values()][
            :_IN_HAND
        ],
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
        "held": robot.held,
        "waiting": states.get((client, RequestState.WAITING), 0),
        "in_hand": states.get((client, RequestState.LEASED), 0),
        "seen_s_ago": round(now - robot.seen_at, 3),
        "timing": {name: round(robot.timing[name], 3) for name in STAGES if name in robot.timing},
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile (nearest rank) and largest; zeros if there are no values."""
    ordered = sorted(values) or [0.0]
    ranks = {"p50": 0.5, "p95": 0.95, "max": 1.0}
    last = len(ordered) - 1
    spread = {name: round(ordered[round(rank * last)], 3) for name, rank in ranks.items()}
    return {**spread, "count": float(len(values))}
