"""What a robot is told of a request that nobody answered in time."""

from __future__ import annotations

from broker.inflight import RETRY_S, InFlight
from broker.requests import Request
from broker.states import RequestState, WorkerState
from broker.workers import Pool
from client import errors


def reason_for_delay(request: Request, pool: Pool, inflight: InFlight) -> errors.PolicyError:
    """Why a request had no answer at its deadline."""
    if request.state is RequestState.LEASED:
        return errors.DeadlineExceeded(
            f"a worker had it for {(request.deadline - request.leased_at) * 1e3:.0f} ms and "
            "had not answered: allow more time, or look at that worker"
        )
    if request.policy is None and pool.by_policy:
        return errors.WorkerLoading("this broker has just started: try again, or name a policy")
    states = {worker.state for worker in pool.serving(request.policy)}
    if WorkerState.READY in states:
        if reason := _held_back(request, pool, inflight):
            return errors.DeadlineExceeded(f"{reason}: ask less, or have it raised")
        return errors.DeadlineExceeded(
            "all workers were busy until its deadline: start more, or allow more time"
        )
    name = request.policy or "any policy"
    if WorkerState.WARMING in states:
        return errors.WorkerLoading(f"the workers of {name} are still loading: try again")
    return errors.NoWorker(f"no live worker serves {name}: start one, or look at its log")


def too_late() -> errors.Overloaded:
    """For a request that could not be answered before its deadline, where others wait."""
    error = errors.Overloaded(
        "others were served before it, and an inference would end after its deadline; try again "
        "later or start more workers"
    )
    error.retry_after_s = RETRY_S
    return error


def given_up(request: Request) -> errors.WorkerLost:
    """For a request that was lost with as many workers as may have it."""
    return errors.WorkerLost(
        f"{request.attempt} workers were lost with this request in hand: it is not tried again, as "
        "it may be what kills them. Look at the workers' logs"
    )


def _held_back(request: Request, pool: Pool, inflight: InFlight) -> str:
    """The quota for which a request had no slot, if it was one."""
    shares = inflight.fairness.shares.get(request.policy or "")
    return shares.closed(request.lane, pool.slots(request.policy)) if shares else ""
