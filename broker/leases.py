"""Leases: which worker gets which request, for how long, and what happens when it fails."""

from __future__ import annotations

import itertools
import logging
from collections import Counter

from broker.agenda import Agenda
from broker.config import Timers
from broker.dispatch import first_to_finish, lease_s, predicted_wait_s
from broker.events import WorkerMessage
from broker.inflight import InFlight
from broker.outbox import Outbox
from broker.requests import Request
from broker.states import RequestState, WorkerState
from broker.telemetry import Telemetry
from broker.workers import Lease, Pool, Worker
from client import errors
from client.wire import MAX_STAGES, VERSION, Header

# What robot and worker tell each other of shared memory; a broker need not understand it.
PASSED_ON = ("host", "memory")
_OUR_STAGES = 2  # of timing: the wait in the queue, and the worker's time seen from here
MAX_ATTEMPTS = 2  # a request that kills workers must not kill all of them


class Leases:
    """Leases waiting requests to free slots, and takes them back from workers that fail."""

    def __init__(
        self, pool: Pool, inflight: InFlight, outbox: Outbox, telemetry: Telemetry, timers: Timers
    ) -> None:
        self.ends: Agenda[Lease] = Agenda()  # by the time at which each is overdue
        self._pool = pool
        self._inflight = inflight
        self._outbox = outbox
        self._telemetry = telemetry
        self._counters: Counter[str] = telemetry.counters
        self._shortest_s = timers.shortest_lease_ms / 1e3
        self._paces: dict[str | None, tuple[int, float]] = {}  # see `wait_s`

    def dispatch(self, now: float) -> None:
        """Lease waiting requests to free slots, as long as there are both."""
        waiting = self._inflight.waiting
        for policy in list(waiting.queues):
            free = self._pool.free.get(policy, {})
            while waiting.waiting_for(policy) and (worker := first_to_finish(free.values())):
                self._lease(waiting.take(policy), worker, now)

    def wait_s(self, policy: str | None, ahead: int) -> float:
        """How long a request will wait that `ahead` others are served before, in seconds.

        The prediction has to visit every worker, so it is made once in each heartbeat interval.
        """
        beat, pace_s = self._paces.get(policy, (-1, 0.0))
        if ahead and beat != self._pool.beats:
            pace_s = predicted_wait_s(1, self._pool.serving(policy))
            if pace_s:
                self._paces[policy] = self._pool.beats, pace_s
        return ahead * pace_s

    def check(self, now: float) -> None:
        """Suspect the workers whose leases have ended."""
        while (end := self.ends.first_key()) is not None and end <= now:
            self._overrun(self.ends.pop(), now)

    def expire(self, now: float) -> None:
        """Fail the requests whose deadlines have passed."""
        deadlines = self._inflight.deadlines
        while (deadline := deadlines.first_key()) is not None and deadline <= now:
            request = deadlines.pop()
            self._inflight.fail(request, self._reason_for_delay(request), "expire")

    # What workers report.

    def result(self, worker: Worker, message: WorkerMessage, now: float) -> None:
        """A worker has computed a request."""
        lease = self._end(worker, message, now)
        if lease is None:
            return
        request, timing = lease.request, message.header.get("timing", {})
        if len(timing) > MAX_STAGES - _OUR_STAGES:  # or the client could not take it in
            timing = dict(itertools.islice(timing.items(), MAX_STAGES - _OUR_STAGES))
        timing["queue_ms"] = lease.waited_s * 1e3
        timing["worker_ms"] = (now - lease.started_at) * 1e3
        self._telemetry.answered(timing["queue_ms"], timing["worker_ms"], now)
        header: Header = {"v": VERSION, "kind": "result", "timing": timing}
        if "host" in message.header:
            header["host"] = message.header["host"]
        self._inflight.answer(request, header, message.payload)

    def failure(self, worker: Worker, message: WorkerMessage, now: float) -> None:
        """A worker could not compute a request, and says why."""
        lease = self._end(worker, message, now)
        if lease is not None:
            header = message.header
            error = errors.from_wire(
                header.get("code", "policy_failed"), header.get("message", "no reason given")
            )
            self._inflight.fail(lease.request, error)

    def release_lost(self, worker: Worker, message: WorkerMessage, now: float) -> None:
        """Take back the leases that, as its heartbeat proves, a worker has never received."""
        header = message.header
        for lease in worker.not_in_hand(header.get("n", 0), header.get("ids", ())):
            self._counters["leases lost"] += 1
            self.take_back(lease, now)

    def take_back(self, lease: Lease, now: float) -> None:
        """End a lease that its worker cannot answer any more, and give its request to another."""
        self._release(lease)
        self._retry(lease.request, now)

    def trust_again(self, worker: Worker) -> None:
        """Clear a suspect that was heard from, unless one of its leases is overdue."""
        if worker.state is WorkerState.SUSPECT and not any(
            lease.overdue for lease in worker.in_hand.values()
        ):
            worker.move("cleared")
            self._outbox.log(logging.INFO, f"worker {worker.name} is trusted again")

    # One lease.

    def _lease(self, request: Request, worker: Worker, now: float) -> None:
        request.move("lease")
        request.attempt += 1
        request.holders += 1
        request.leased_at = worker.leased_at = now
        attempt = request.attempt
        while (request.id, attempt) in worker.in_hand:
            attempt += 1  # the id was asked before, and this worker still computes that request
        waited_s = now - request.queued_at
        length_s = lease_s(worker, self._shortest_s)
        lease = Lease(request, worker, attempt, now, waited_s, length_s, self._pool.beats)
        worker.hold(lease)
        self.ends.add(now + length_s, lease)
        given = request.header
        passed_on = {field: given[field] for field in PASSED_ON if field in given}
        self._outbox.tell(
            worker.id,
            "infer",
            payload=request.payload,
            id=request.id,
            attempt=attempt,
            deadline_ms=(request.deadline - now) * 1e3,
            buffers=given.get("buffers", False),
            session=given.get("session", ""),
            robot=given.get("robot", ""),
            **passed_on,
        )

    def _end(self, worker: Worker, message: WorkerMessage, now: float) -> Lease | None:
        """End a lease and free its slot; returns it if its request still needs an answer."""
        key = message.header.get("id"), message.header.get("attempt", 0)
        lease = worker.in_hand.get(key)  # type: ignore[arg-type]
        if lease is None:
            self._counters["dropped foreign reply"] += 1
            return None
        self._release(lease)
        if message.header["kind"] == "result":  # a failure may come before any computing
            # A process that was stopped for an hour, or a clock that jumped, says nothing about
            # its speed: believe that it has become slow only step by step.
            worker.took(min(now - lease.started_at, 2.0 * lease.length_s))
        self.trust_again(worker)
        if lease.request.is_final:
            self._counters["dropped late reply"] += 1
            return None
        return lease

    def _overrun(self, lease: Lease, now: float) -> None:
        """Suspect a worker whose lease has ended, and give its request to another."""
        worker, request = lease.worker, lease.request
        lease.overdue = True
        worker.move("overdue")
        self._outbox.log(
            logging.WARNING,
            f"worker {worker.name} is suspect: a request is overdue after "
            f"{(now - lease.started_at) * 1e3:.0f} ms",
            **worker.about,
            request=str(request.id),
        )
        self._counters["leases overrun"] += 1
        # The last attempt may go on until the deadline, as there will be no other.
        if request.state is RequestState.LEASED and request.attempt < MAX_ATTEMPTS:
            self._inflight.requeue(request, now)

    def _release(self, lease: Lease) -> None:
        lease.worker.let_go(lease)
        lease.request.holders -= 1
        self.ends.discard(lease)

    def _retry(self, request: Request, now: float) -> None:
        if request.state is not RequestState.LEASED or request.holders:
            return
        if request.attempt < MAX_ATTEMPTS:
            self._counters["moved"] += 1
            self._inflight.requeue(request, now)
        else:
            self._inflight.fail(
                request,
                errors.WorkerLost(
                    f"{request.attempt} workers were lost with this request in hand: it is not "
                    "tried again, as it may be what kills them. Look at the workers' logs"
                ),
            )

    def _reason_for_delay(self, request: Request) -> errors.PolicyError:
        if request.state is RequestState.LEASED:
            return errors.DeadlineExceeded(
                f"a worker had it for {(request.deadline - request.leased_at) * 1e3:.0f} ms and "
                "had not answered: allow more time, or look at that worker"
            )
        if request.policy is None and self._pool.by_policy:
            return errors.WorkerLoading("this broker has just started: try again, or name a policy")
        states = {worker.state for worker in self._pool.serving(request.policy)}
        if WorkerState.READY in states:
            return errors.DeadlineExceeded(
                "all workers were busy until its deadline: start more, or allow more time"
            )
        name = request.policy or "any policy"
        if WorkerState.WARMING in states:
            return errors.WorkerLoading(f"the workers of {name} are still loading: try again")
        return errors.NoWorker(f"no live worker serves {name}: start one, or look at its log")
