"""Scheduling decisions, each a small pure function."""

from __future__ import annotations

from collections.abc import Iterable

from broker.states import WorkerState
from broker.workers import Worker

UNTIMED_LEASE_S = 10.0  # for the first request of a worker that does not say how fast it is


def first_to_finish(workers: Iterable[Worker]) -> Worker | None:
    """The worker for the next request, or None if every slot is taken.

    An idle worker is preferred to one that is busy. Of several, it is the one that is predicted
    to finish first, from the work it has in hand and its recent speed, so slow workers get less
    work. Of equals, it is the one that was given work least recently.
    """
    free = [worker for worker in workers if worker.free_slots > 0]
    return min(free, key=_finish, default=None)


def _finish(worker: Worker) -> tuple[bool, float, float]:
    held = len(worker.in_hand)
    return held > 0, (held + 1) * worker.mean_s, worker.leased_at


def lease_s(worker: Worker, shortest_s: float) -> float:
    """How long a worker may take before its request is given to another, in seconds.

    It is four times the slowest of its recent inferences (of the 64 that are kept, that is the
    99th percentile). A worker without any is believed what it says of its own speed.
    """
    if not worker.is_timed:
        return UNTIMED_LEASE_S
    slowest = max(worker.recent_s, default=worker.mean_s)
    return max(shortest_s, 4.0 * slowest)


def predicted_wait_s(ahead: int, workers: Iterable[Worker]) -> float:
    """How long a request will wait that `ahead` others are served before, in seconds.

    Zero while no worker is READY, as nobody knows when one will be.
    """
    rate = sum(w.slots / w.mean_s for w in workers if w.state is WorkerState.READY and w.mean_s)
    return ahead / rate if rate else 0.0
