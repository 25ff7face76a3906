"""Leases: which worker gets which request, for how long, and what happens when it fails."""

from __future__ import annotations

import itertools
import logging
from collections import Counter

from broker.agenda import Agenda
from broker.config import Timers
from broker.dispatch import fastest_s, first_to_finish, is_hopeless, lease_s, predicted_wait_s
from broker.events import WorkerMessage
from broker.inflight import InFlight
from broker.names import Names
from broker.outbox import Outbox
from broker.reasons import given_up, reason_for_delay, too_late
from broker.requests import Request
from broker.shares import USUAL
from broker.states import RequestState, WorkerState
from broker.telemetry import Telemetry
from broker.workers import Lease, Pool, Worker
from client import errors
from client.names import AT
from client.wire import MAX_STAGES, VERSION, Header

# What robot and worker tell each other about shared memory; a broker need not understand it.
PASSED_ON = ("host", "memory")
_OUR_STAGES = 2  # of timing: the wait in the queue, and the worker's time seen from here
_NO_PACE = (-1, 0.0, 0.0)  # of a policy: in which heartbeat, the wait for each ahead, an inference
_READY = WorkerState.READY  # Python 3.11 looks a member of an enumeration up by a call
MAX_ATTEMPTS = 2  # a request that kills workers must not kill all of them


class Leases:
    """Leases waiting requests to free slots, and takes them back from workers that fail."""

    def __init__(
        self,
        pool: Pool,
        inflight: InFlight,
        names: Names,
        outbox: Outbox,
        telemetry: Telemetry,
        timers: Timers,
    ) -> None:
        self.ends: Agenda[Lease] = Agenda()  # by the time at which each is overdue
        self.slept_s = 0.0  # in all: the process was stopped or the clock jumped, not the workers
        self._pool = pool
        self._inflight = inflight
        self._names = names
        self._outbox = outbox
        self._telemetry = telemetry
        self._counters: Counter[str] = telemetry.counters
        self._reserves = inflight.fairness.reserve_live > 0
        self._shortest_s = timers.shortest_lease_ms / 1e3
        self._paces: dict[str | None, tuple[int, float, float]] = {}  # see `wait_s`

    def open(self, request: Request, now: float) -> None:
        """Accept a request: one that finds no other waiting and a worker free need not wait.

        Raises:
            Superseded: a newer one of its session waits already.
        """
        inflight, free = self._inflight, self._pool.free.get(request.policy)
        lane = request.lane
        if lane is not USUAL and (lane.max_share is not None or self._reserves):
            free = None  # `dispatch` asks whether it may have a slot
        worker: Worker | None = None
        if free:
            worker = first_to_finish(free.values()) if len(free) > 1 else next(iter(free.values()))
        if worker is None or inflight.waiting.sessions:
            inflight.enqueue(request)
        else:
            inflight.open(request)
            self._lease(request, worker, now)

    def dispatch(self, now: float) -> None:
        """Lease waiting requests to free slots, as long as there are both."""
        waiting = self._inflight.waiting
        for policy in list(waiting.queues):
            free = self._pool.free.get(policy, {})
            slots = self._pool.slots(policy) if self._inflight.fairness.is_on and free else 0
            while waiting.waiting_for(policy) and (worker := first_to_finish(free.values())):
                request = waiting.take(policy, slots)
                if request is None:
                    break
                if is_hopeless(request, worker, now) and waiting.waiting_for(policy):
                    self._inflight.fail(request, too_late(), "expire")
                else:
                    self._lease(request, worker, now)
            if self._pool.unasked.get(policy) and waiting.waiting_for(policy):
                self._ask_for_slots(policy)

    def is_waited_for(self, worker: Worker) -> bool:
        """Whether a request waits that this worker could take."""
        return self._inflight.waiting.waiting_for(worker.policy) > 0

    def demand(self, worker: Worker) -> Header:
        """What a worker that has other brokers too is told in heartbeats and requests."""
        waiting = self._inflight.waiting.waiting_for(worker.policy)
        unasked = self._pool.unasked.setdefault(worker.policy, {})
        if waiting:
            unasked.pop(worker.id, None)
        else:
            unasked[worker.id] = worker
        return {"grant": worker.grant, "waiting": waiting}

    def _ask_for_slots(self, policy: str | None) -> None:
        """Tell workers that could let us have more slots that requests wait, once."""
        for worker in list(self._pool.unasked[policy].values()):
            if worker.state is WorkerState.READY and worker.slots < worker.total:
                beats = self._pool.beats
                self._outbox.tell(worker.id, "heartbeat", n=beats, **self.demand(worker))

    def wait_s(self, policy: str | None, ahead: int) -> float:
        """How long a request will wait if `ahead` others are served before it, in seconds.

        The prediction has to visit every worker, so it is made once in each heartbeat interval.
        """
        beat, pace_s, _ = self._paces.get(policy, _NO_PACE)
        if ahead and beat != self._pool.beats:
            workers = self._pool.serving(policy)
            pace_s = predicted_wait_s(1, workers)
            if pace_s:
                self._paces[policy] = self._pool.beats, pace_s, fastest_s(workers)
        return ahead * pace_s

    def inference_s(self, policy: str | None) -> float:
        """How long the fastest worker takes, in seconds, as known when `wait_s` was last asked."""
        return self._paces.get(policy, _NO_PACE)[2]

    def check(self, now: float) -> None:
        """Suspect the workers whose leases have ended."""
        while (end := self.ends.first_key()) is not None and end <= now:
            self._overrun(self.ends.pop(), now)

    def expire(self, now: float) -> None:
        """Fail the requests whose deadlines have passed."""
        deadlines = self._inflight.deadlines
        while (deadline := deadlines.first_key()) is not None and deadline <= now:
            request = deadlines.pop()
            reason = reason_for_delay(request, self._pool, self._inflight)
            self._inflight.fail(request, reason, "expire")

    # What workers report.

    def result(self, worker: Worker, message: WorkerMessage, now: float) -> None:
        """A worker has computed a request."""
        lease = self._end(worker, message, now)
        if lease is None:
            return
        request, timing = lease.request, message.header.get("timing", {})
        if len(timing) > MAX_STAGES - _OUR_STAGES:  # or the client would refuse the header
            timing = dict(itertools.islice(timing.items(), MAX_STAGES - _OUR_STAGES))
        timing["queue_ms"] = lease.waited_s * 1e3
        timing["worker_ms"] = (now - lease.started_at) * 1e3
        size, batch = sum(map(len, message.payload)), message.header.get("batch", 1)
        client, lane = request.id.client, request.lane
        self._telemetry.answered(
            client, worker.policy, timing, lane, batch=batch, size=size, now=now
        )
        if "breaches" in message.header:
            self._telemetry.breached(worker.policy, "clipped", message.header["breaches"])
        header: Header = {"v": VERSION, "kind": "result", "timing": timing}
        if request.base or AT not in worker.policy:  # who names a version knows it
            header["version"] = worker.policy
            self._names.answered(request, worker.policy, now)
        if "host" in message.header:
            header["host"] = message.header["host"]
        self._inflight.answer(request, header, message.payload)

    def failure(self, worker: Worker, message: WorkerMessage, now: float) -> None:
        """A worker could not compute a request, and says why."""
        lease = self._end(worker, message, now)
        if lease is not None:
            header = message.header
            if "breaches" in header:
                self._telemetry.breached(worker.policy, "refused", header["breaches"])
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
            attempt += 1  # the same id came before, and this worker still computes that request
        waited_s, beats = now - request.queued_at, self._pool.beats
        length_s = lease_s(worker, self._shortest_s)
        lease = Lease(request, worker, attempt, now, waited_s, length_s, beats, self.slept_s)
        worker.hold(lease)
        if self._inflight.fairness.is_on:
            lease.expected_s = worker.mean_s / worker.capacity
            self._inflight.fairness.lease(request.lane, worker.policy, lease.expected_s)
        self.ends.add(now + length_s, lease)
        given = request.header
        fields: Header = {
            "id": request.id,
            "attempt": attempt,
            "deadline_ms": (request.deadline - now) * 1e3,
            "buffers": given.get("buffers", False),
        }
        for field in PASSED_ON:
            if field in given:
                fields[field] = given[field]
        if worker.grant is not None:
            fields.update(self.demand(worker))
        self._outbox.tell(worker.id, "infer", request.payload, **fields)

    def _end(self, worker: Worker, message: WorkerMessage, now: float) -> Lease | None:
        """End a lease and free its slot; returns it if its request still needs an answer."""
        key = message.header.get("id"), message.header.get("attempt", 0)
        lease = worker.in_hand.get(key)  # type: ignore[arg-type]
        if lease is None:
            self._counters["dropped foreign reply"] += 1
            return None
        self._release(lease)
        if message.header["kind"] == "result":  # a failure may come before any computing
            awake_s = now - lease.started_at - (self.slept_s - lease.slept_s)
            # A worker that was stopped for an hour says nothing about its speed: believe that it
            # has become slow only step by step.
            took_s = min(max(awake_s, 0.0), 2.0 * lease.length_s)
            worker.took(took_s)
            if lease.expected_s is not None:
                lane, slot_s = lease.request.lane, took_s / worker.capacity
                self._inflight.fairness.took(lane, worker.policy, lease.expected_s, slot_s)
        if worker.state is not _READY:
            self.trust_again(worker)
        if lease.request.is_final:
            self._counters["dropped late reply"] += 1
            return None
        lease.request.worker = worker.id
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
            self._requeue(request, now)

    def _release(self, lease: Lease) -> None:
        lease.worker.let_go(lease)
        lease.request.holders -= 1
        self.ends.discard(lease)
        if lease.expected_s is not None:
            policy, inflight = lease.worker.policy, self._inflight
            inflight.fairness.release(lease.request.lane, policy)
            if not inflight.waiting.waiting_for(policy):
                inflight.fairness.rest(policy)

    def _requeue(self, request: Request, now: float) -> None:
        self._names.choose_again(request, now)  # its version may be served no more
        self._inflight.requeue(request, now)

    def _retry(self, request: Request, now: float) -> None:
        if request.state is not RequestState.LEASED or request.holders:
            return
        if request.attempt < MAX_ATTEMPTS:
            self._counters["moved"] += 1
            self._requeue(request, now)
        else:
            self._inflight.fail(request, given_up(request))
