"""What can become of a worker and of a request, as data.

`docs/protocol.md` draws these tables. A move that is not in them is a bug in the core, never
something that a peer could cause, so it raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TypeVar


class WorkerState(StrEnum):
    """The state of a worker. Only READY ones are given work."""

    WARMING = "warming"  # said hello, still loading its policy
    READY = "ready"
    SUSPECT = "suspect"  # silent, or overdue with a request; gets no work until cleared
    DRAINING = "draining"  # finishes what it has and leaves
    GONE = "gone"


class RequestState(StrEnum):
    """The state of a request. The last four are final; each of them means one answer."""

    WAITING = "waiting"
    LEASED = "leased"  # a worker has it
    ANSWERED = "answered"
    FAILED = "failed"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"


_W, _R = WorkerState, RequestState

WORKER_MOVES: Mapping[tuple[WorkerState, str], WorkerState] = {
    (_W.WARMING, "ready"): _W.READY,
    (_W.WARMING, "drain"): _W.DRAINING,
    (_W.WARMING, "lost"): _W.GONE,
    (_W.READY, "ready"): _W.READY,
    (_W.READY, "silent"): _W.SUSPECT,
    (_W.READY, "overdue"): _W.SUSPECT,
    (_W.READY, "drain"): _W.DRAINING,
    (_W.READY, "lost"): _W.GONE,
    (_W.SUSPECT, "ready"): _W.SUSPECT,
    (_W.SUSPECT, "overdue"): _W.SUSPECT,
    (_W.SUSPECT, "cleared"): _W.READY,
    (_W.SUSPECT, "drain"): _W.DRAINING,
    (_W.SUSPECT, "lost"): _W.GONE,
    (_W.DRAINING, "ready"): _W.DRAINING,
    (_W.DRAINING, "overdue"): _W.DRAINING,
    (_W.DRAINING, "drain"): _W.DRAINING,
    (_W.DRAINING, "lost"): _W.GONE,
}

REQUEST_MOVES: Mapping[tuple[RequestState, str], RequestState] = {
    (_R.WAITING, "lease"): _R.LEASED,
    (_R.WAITING, "answer"): _R.ANSWERED,  # by the worker that was overdue with it
    (_R.WAITING, "fail"): _R.FAILED,
    (_R.WAITING, "expire"): _R.EXPIRED,
    (_R.WAITING, "supersede"): _R.SUPERSEDED,
    (_R.LEASED, "requeue"): _R.WAITING,
    (_R.LEASED, "answer"): _R.ANSWERED,
    (_R.LEASED, "fail"): _R.FAILED,
    (_R.LEASED, "expire"): _R.EXPIRED,
}

State = TypeVar("State", WorkerState, RequestState)


def move(table: Mapping[tuple[State, str], State], state: State, cause: str) -> State:
    """The state that `cause` leads to.

    Raises:
        RuntimeError: the table has no such move.
    """
    following = table.get((state, cause))
    if following is None:
        raise RuntimeError(f"no move from {state} by {cause!r}")
    return following
