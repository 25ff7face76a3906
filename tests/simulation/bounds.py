"""Invariants that are seen by looking into the core: its bounds, and that its parts agree."""

from __future__ import annotations

from collections import Counter

from broker.core import Core
from broker.shares import USUAL
from broker.states import RequestState
from broker.workers import Pool
from client.names import base_of
from tests.simulation.violation import Violation

_SLACK = 65  # of an agenda's heap
_MOST_COUNTERS = 64


def check_bounds(core: Core, now: float) -> None:
    """Check after an event.

    Raises:
        Violation: 3 where a worker has too much, 5 where work waits beside a free slot or time
            could never go on, 4 for all else.
    """
    _check_requests(core)
    _check_workers(core)
    if not core.wake_at() > now:
        raise Violation(5, f"the core wants to be woken at {core.wake_at()}, and now is {now}")


def check_empty(core: Core) -> None:
    """Check that nothing is left when everything was answered.

    Raises:
        Violation: 4, with what is left.
    """
    inflight = core.inflight
    left = {
        "requests": len(inflight.requests),
        "bytes": inflight.accounts.total.bytes,
        "accounts": len(inflight.accounts.robots),
        "sessions": len(inflight.waiting.sessions),
        "queues": len(inflight.waiting.queues),
        "deadlines": len(inflight.deadlines),
        "leases": len(core.leases.ends),
        "in hand": sum(len(worker.in_hand) for worker in core.pool.by_id.values()),
    }
    if any(left.values()):
        raise Violation(4, f"left behind: {left}")


def _check_requests(core: Core) -> None:
    waiting, requests = core.inflight.waiting, core.inflight.requests
    waits = 0
    for request in requests.values():
        if request.state is RequestState.WAITING:
            waits += 1
            if waiting.sessions.get(request.session) is not request:
                raise Violation(4, f"{request.id} waits nowhere")
        elif request.state is not RequestState.LEASED or not request.holders:
            raise Violation(4, f"{request.id} is {request.state} with {request.holders} holders")
    _check_accounts(core)
    if not (waits == len(waiting.sessions) == sum(map(len, waiting.queues.values()))):
        raise Violation(4, f"{waits} requests wait, {len(waiting.sessions)} sessions")
    if len(core.inflight.deadlines) != len(requests):
        raise Violation(4, f"{len(core.inflight.deadlines)} deadlines for {len(requests)} requests")
    for agenda in (core.inflight.deadlines, core.leases.ends):
        if len(agenda._heap) > 2 * len(agenda) + _SLACK:
            raise Violation(4, f"{len(agenda._heap)} entries for {len(agenda)} items")
    if len(core.counters) > _MOST_COUNTERS:
        raise Violation(4, f"{len(core.counters)} counters")


def _check_accounts(core: Core) -> None:
    limits, accounts = core.config.limits, core.inflight.accounts
    total = accounts.total
    held = Counter(request.robot for request in core.inflight.requests.values())
    size = sum(request.size for request in core.inflight.requests.values())
    counted = {robot: account.requests for robot, account in accounts.robots.items()}
    if (held, size, held.total()) != (counted, total.bytes, total.requests):
        raise Violation(4, f"{held} with {size} bytes in hand, {counted} with {total} counted")
    _check_lanes(core)
    if size > limits.max_total_bytes or total.requests > limits.max_requests:
        raise Violation(4, f"{total} in hand")
    if max(counted.values(), default=0) > limits.max_requests_per_robot:
        raise Violation(4, f"{counted} in hand of each robot")


def _check_lanes(core: Core) -> None:
    fairness = core.inflight.fairness
    if not fairness.is_on:
        return
    held = Counter(r.lane.team for r in core.inflight.requests.values() if r.lane is not USUAL)
    counted = {team: account.requests for team, account in fairness.accounts.items()}
    if held != Counter(counted):
        raise Violation(4, f"{held} in hand of teams, {counted} counted")
    for team, count in held.items():
        most = fairness.teams[team].max_requests if team else None
        if most is not None and count > most:
            raise Violation(4, f"{count} in hand of the team {team}, {most} are allowed")
    for policy, shares in fairness.shares.items():
        leases = [lease for w in core.pool.serving(policy) for lease in w.in_hand.values()]
        leased = Counter(each.request.lane for each in leases if each.expected_s is not None)
        if leased != shares.leased:
            raise Violation(4, f"{leased} leased for {policy}, {shares.leased} counted")
        if not leased and policy not in core.inflight.waiting.queues:
            raise Violation(4, f"shares are kept for {policy}, which has nothing to do")


def _check_workers(core: Core) -> None:
    pool: Pool = core.pool
    in_hand = 0
    for worker in pool.by_id.values():
        in_hand += len(worker.in_hand)
        # Of a share that was taken back, some may still be in hand; the worker counts them.
        slots = worker.slots if worker.grant is None else worker.total
        if len(worker.in_hand) > slots:
            raise Violation(3, f"{len(worker.in_hand)} leases for {slots} slots")
        if (worker.free_slots > 0) != (worker.id in pool.free[worker.policy]):
            raise Violation(5, f"{worker.id!r} has {worker.free_slots} free and is listed wrongly")
    if len(core.leases.ends) > in_hand:
        raise Violation(4, f"{len(core.leases.ends)} lease ends for {in_hand} leases")
    if len(pool.by_id) > core.config.limits.max_workers:
        raise Violation(4, f"{len(pool.by_id)} workers")
    if len(pool.by_id) != sum(map(len, pool.by_policy.values())):
        raise Violation(4, "the pool's maps differ")
    if not all(pool.by_id.keys() >= free.keys() for free in pool.free.values()):
        raise Violation(4, "a worker that is gone is listed as free")
    fairness = core.inflight.fairness
    for policy, queue in core.inflight.waiting.queues.items():
        shares, slots = fairness.shares.get(policy), pool.slots(policy)
        closed = shares is not None and all(shares.closed(r.lane, slots) for r in queue)
        if pool.free.get(policy) and not closed:
            raise Violation(5, f"a request for {policy} waits beside a free slot")
        record = core.versions.records.get(base_of(policy or ""))
        is_served = policy not in pool.by_policy or pool.serves_since(policy or "") is not None
        others = [] if record is None or is_served else list(record.names)
        if any(pool.serves_since(each) for each in others) and any(r.base for r in queue):
            raise Violation(5, f"a request waits for {policy}, and another version can answer")
