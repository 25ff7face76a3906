"""Scheduling decisions, each a small pure function."""

from __future__ import annotations

from collections.abc import Iterable

from broker.requests import Request
from broker.states import WorkerState
from broker.workers import Worker

UNTIMED_LEASE_S = 10.0  # for the first request of a worker that does not say how fast it is


def first_to_finish(workers: Iterable[Worker]) -> Worker | None:
    """The worker for the next request, or None if every slot is taken.

    An idle worker is preferred to one that is busy. Of several, it is the one that is predicted
    to finish first, from the work it has in hand and its recent speed, so slow workers get less
    work. Of equals, it is the one that was given work least recently.
    """
    first, best = None, (True, float("inf"), float("inf"))
    for worker in workers:
        if worker.free_slots <= 0:
            continue
        held = len(worker.in_hand)
        finish = held > 0, (held + 1) * worker.mean_s, worker.leased_at
        if first is None or finish < best:
            first, best = worker, finish
    return first


def lease_s(worker: Worker, shortest_s: float) -> float:
    """How long a worker may take before its request is given to another, in seconds.

    It is four times the slowest of its recent inferences (of the 64 that are kept, that is the
    99th percentile). For a worker without any, it is four times what the worker itself measured.
    """
    if not worker.is_timed:
        return UNTIMED_LEASE_S
    return max(shortest_s, 4.0 * (worker.slowest_s or worker.mean_s))


def predicted_wait_s(ahead: int, workers: Iterable[Worker]) -> float:
    """How long a request will wait if `ahead` others are served before it, in seconds.

    Zero while no worker is READY, as nobody knows when one will be.
    """
    rate = sum(w.capacity / w.mean_s for w in workers if w.state is WorkerState.READY and w.mean_s)
    return ahead / rate if rate else 0.0


def fastest_s(workers: Iterable[Worker]) -> float:
    """How long an inference takes at the fastest READY worker, in seconds; 0 if nobody knows."""
    timed = (w.mean_s for w in workers if w.state is WorkerState.READY and w.is_timed)
    return min(timed, default=0.0)


def is_hopeless(request: Request, worker: Worker, now: float) -> bool:
    """Whether its answer would come too late, so that others had better be served.

    Where more is asked for than can be served, the order of deadlines would otherwise have every
    request begin just before its deadline, and end after it.
    """
    return worker.is_timed and now + worker.mean_s > request.deadline
