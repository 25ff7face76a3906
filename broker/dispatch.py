"""Scheduling decisions, each a small pure function."""

from __future__ import annotations

from collections.abc import Iterable

from broker.states import WorkerState
from broker.workers import Worker

UNTIMED_LEASE_S = 10.0  # for the first request of a worker that does not say how fast it is


def first_to_finish(workers: Iterable[Worker]) -> Worker | None:
    """The worker for the next request, or None if every slot is taken.

    Idle ones first; then the one predicted to finish first, by the work it has in hand and its
    own recent speed, so a slow one is given less; of equals, the one that rested longest.
    """
    free = [worker for worker in workers if worker.free_slots > 0]
    return min(free, key=_finish, default=None)


def _finish(worker: Worker) -> tuple[bool, float, float]:
    held = len(worker.in_hand)
    return held > 0, (held + 1) * worker.mean_s, worker.leased_at


def lease_s(worker: Worker, shortest_s: float) -> float:
    """How long a worker may take before its request is given to another, in seconds.

    Four times the slowest of its recent inferences (which is their 99th percentile, as only
    64 are kept), or of what it says of itself while there are none.
    """
    if not worker.is_timed:
        return UNTIMED_LEASE_S
    slowest = max(worker.recent_s, default=worker.mean_s)
    return max(shortest_s, 4.0 * slowest)


def predicted_wait_s(ahead: int, workers: Iterable[Worker]) -> float:
    """How long a request with `ahead` others before it will wait, in seconds.

    Zero while no worker is READY: when one will be is not for us to guess.
    """
    rate = sum(w.slots / w.mean_s for w in workers if w.state is WorkerState.READY and w.mean_s)
    return ahead / rate if rate else 0.0
