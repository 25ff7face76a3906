"""The core's half that keeps workers: who is there, who is to be believed, who gets what."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from broker.agenda import Agenda
from broker.dispatch import first_to_finish, lease_s, predicted_wait_s
from broker.events import Payload, ToWorker, WorkerMessage
from broker.requests import Request, WaitingRoom
from broker.states import RequestState, WorkerState
from broker.workers import Lease, Pool, Worker
from client import errors
from client.wire import VERSION, Header

if TYPE_CHECKING:
    from broker.core import Core

MAX_ATTEMPTS = 2  # a request that kills workers must not kill all of them
ASK_AGAIN_S = 0.002
ASK_ONCE_MORE_S = 0.01  # after that, in case that it was too early
MAX_NAMES = 1000  # of policies ever served


class Fleet:
    """Registers workers, leases requests to them and decides when one is not to be trusted."""

    def __init__(self, core: Core, epoch: int, now: float) -> None:
        self.epoch = epoch
        self.pool = Pool()
        self.metadata: dict[str, Payload] = {}
        self._core = core
        self._timers = core.config.timers
        self._leases: Agenda[Lease] = Agenda()
        self._beat_at = now
        self._beats = 0  # sent to each worker so far
        self._is_asking = False  # is the next heartbeat to be followed by one before its time?
        self._paces: dict[str | None, tuple[int, float]] = {}  # see `wait_s`
        self._kinds: dict[str, Callable[[Worker, WorkerMessage, float], None]] = {
            "ready": self._ready,
            "heartbeat": self._heartbeat,
            "result": self._result,
            "failure": self._failure,
            "goodbye": self._goodbye,
        }

    def wake_at(self) -> float:
        """When the next heartbeat is due or the next lease ends."""
        lease_end = self._leases.first_key()
        return self._beat_at if lease_end is None else min(self._beat_at, lease_end)

    def hear(self, message: WorkerMessage, now: float) -> None:
        """Take in a worker's message."""
        header = message.header
        if header["kind"] == "hello":
            self._hello(message, now)
            return
        worker = self.pool.by_id.get(message.worker)
        if worker is None or header.get("epoch") != self.epoch:
            # Of another life: nothing that it says is believed until it says hello.
            self._core.counters[f"dropped {header['kind']}"] += 1
            if header["kind"] != "goodbye":
                self._tell(message.worker, "who")
            return
        worker.heard_at = now
        self._kinds[header["kind"]](worker, message, now)

    def question(self, workers: Sequence[bytes], now: float) -> None:
        """Ask workers whose connection may be lost: if it is, that cannot be delivered.

        The monitor may speak before the socket itself has heard of the loss, and then this is
        taken for delivered: so ask again soon, by heartbeats before their time.
        """
        for worker in workers:
            if worker in self.pool.by_id:
                self._tell(worker, "who")
                self._is_asking = True
                self._beat_at = min(self._beat_at, now + ASK_AGAIN_S)

    def lose(self, id: bytes, why: str, now: float) -> None:
        """A worker is gone: its requests move on."""
        worker = self.pool.by_id.get(id)
        if worker is None:
            return
        worker.move("lost")
        self.pool.remove(worker, now)
        level = logging.INFO if worker.policy and not worker.in_hand else logging.WARNING
        requests = ", ".join(str(request) for request, _ in worker.in_hand)
        self._core.log(
            level, f"worker {_name(worker)} is gone ({why})", **_about(worker), requests=requests
        )
        self._core.counters["workers lost"] += 1
        for lease in list(worker.in_hand.values()):
            self._release(lease)
            self._retry(lease.request, now)

    def check(self, now: float) -> None:
        """What time alone changes: leases that end, workers that fell silent, heartbeats due."""
        while (end := self._leases.first_key()) is not None and end <= now:
            self._overrun(self._leases.pop(), now)
        if now < self._beat_at:
            return
        interval_s = self._timers.heartbeat_ms / 1e3
        self._beat_at = now + (min(ASK_ONCE_MORE_S, interval_s) if self._is_asking else interval_s)
        self._is_asking = False
        self._beats += 1
        for worker in self.pool.by_id.values():
            self._tell(worker.id, "heartbeat", n=self._beats)
            silent_s = now - worker.heard_at
            if worker.state is WorkerState.READY and silent_s > self._timers.suspect_ms / 1e3:
                worker.move("silent")
                self._core.log(
                    logging.WARNING,
                    f"worker {_name(worker)} is suspect: nothing heard for {silent_s:.1f} s",
                    **_about(worker),
                )

    def dispatch(self, waiting: WaitingRoom, now: float) -> None:
        """Give waiting requests to free slots, as long as there are both."""
        for policy in list(waiting.queues):
            free = self.pool.free.get(policy, {})
            while waiting.waiting_for(policy) and (worker := first_to_finish(free.values())):
                self._lease(waiting.take(policy), worker, now)

    def wait_s(self, policy: str | None, ahead: int) -> float:
        """How long a request with `ahead` others before it will wait, in seconds.

        To predict it takes a look at every worker, so the pace of one beat holds until the next.
        """
        beat, pace_s = self._paces.get(policy, (-1, 0.0))
        if ahead and beat != self._beats:
            pace_s = predicted_wait_s(1, self.pool.serving(policy))
            if pace_s:
                self._paces[policy] = self._beats, pace_s
        return ahead * pace_s

    # What workers say.

    def _hello(self, message: WorkerMessage, now: float) -> None:
        header = message.header
        known = self.pool.by_id.get(message.worker)
        try:
            worker = known or self._register(message, now)
            self._identify(worker, message)
        except errors.PolicyError as error:
            self._tell(message.worker, "error", **errors.to_wire(error))
            self._core.log(logging.WARNING, f"refused a worker: {error}")
            if known is not None:
                self.lose(known.id, "it was refused", now)
            return
        worker.heard_at = now
        self._tell(
            worker.id,
            "welcome",
            heartbeat_ms=self._timers.heartbeat_ms,
            max_bytes=self._core.config.limits.max_bytes,
        )
        if header.get("state") == "draining":
            worker.move("drain")

    def _register(self, message: WorkerMessage, now: float) -> Worker:
        header, payload = message.header, message.payload
        if "policy" not in header or "incarnation" not in header or not payload:
            raise errors.ProtocolError("hello needs policy, incarnation and metadata in its body")
        policy, limit = header["policy"], self._core.config.limits.max_workers
        if len(self.pool.by_id) >= limit:
            raise errors.WorkerRefused(f"{limit} workers are here already (limits.max_workers)")
        if policy not in self.pool.by_policy and len(self.pool.by_policy) >= MAX_NAMES:
            raise errors.WorkerRefused(f"{MAX_NAMES} names were served already: reuse one")
        worker = Worker(message.worker, policy, None, header.get("horizon", 0), payload, now)
        self._check_alike(worker, header.get("digest"))
        first = policy not in self.pool.by_policy
        self.pool.add(worker)
        self.metadata[policy] = payload
        self._core.log(logging.INFO, f"worker {_name(worker)} said hello")
        if first:
            self._core.learned(now)
        return worker

    def _identify(self, worker: Worker, message: WorkerMessage) -> None:
        """A worker that downloads its files knows its digest only when it has them."""
        digest = message.header.get("digest")
        if worker.digest is None and digest is not None:
            self._check_alike(worker, digest)
            worker.digest, worker.metadata = digest, message.payload
            self.metadata[worker.policy] = message.payload

    def _check_alike(self, worker: Worker, digest: str | None) -> None:
        """Workers of one name must give the same answers, as far as it is known."""
        for other in self.pool.serving(worker.policy):
            differs = digest is not None and other.digest not in (None, digest)
            if other is not worker and (differs or other.horizon != worker.horizon):
                raise errors.WorkerRefused(
                    f"{worker.policy!r} is already served with digest {_short(other.digest)} and"
                    f" horizon {other.horizon}, this worker has {_short(digest)} and"
                    f" {worker.horizon}: robots would get now one, now the other. Give it a name"
                    " of its own with name=..."
                )

    def _ready(self, worker: Worker, message: WorkerMessage, now: float) -> None:
        header = message.header
        worker.slots = header.get("slots", 1)
        pace = ""
        if "inference_ms" in header:
            worker.expect(header["inference_ms"] / 1e3)
            pace = f", {worker.mean_s * 1e3:.1f} ms an inference"
        if worker.state is WorkerState.WARMING:
            text = f"worker {_name(worker)} is ready: {worker.slots} slots{pace}"
            self._core.log(logging.INFO, text)
        worker.move("ready")

    def _heartbeat(self, worker: Worker, message: WorkerMessage, now: float) -> None:
        header = message.header
        for lease in worker.not_in_hand(header.get("n", 0), header.get("ids", ())):
            self._core.counters["leases lost"] += 1
            self._release(lease)
            self._retry(lease.request, now)
        if header.get("state") == "draining":
            worker.move("drain")
        elif header.get("state") == "ready" and worker.state is WorkerState.WARMING:
            self._tell(worker.id, "who")  # its `ready` was lost with a connection
        self._clear(worker)

    def _result(self, worker: Worker, message: WorkerMessage, now: float) -> None:
        lease = self._end_lease(worker, message, now)
        if lease is None:
            return
        request, timing = lease.request, message.header.get("timing", {})
        timing["queue_ms"] = lease.waited_s * 1e3
        timing["worker_ms"] = (now - lease.started_at) * 1e3
        self._core.notebook.took(timing["queue_ms"], timing["worker_ms"], now)
        header: Header = {"v": VERSION, "kind": "result", "timing": timing}
        self._core.answer(request, header, message.payload)

    def _failure(self, worker: Worker, message: WorkerMessage, now: float) -> None:
        lease = self._end_lease(worker, message, now)
        if lease is not None:
            header = message.header
            error = errors.from_wire(
                header.get("code", "policy_failed"), header.get("message", "no reason given")
            )
            self._core.fail(lease.request, error)

    def _goodbye(self, worker: Worker, message: WorkerMessage, now: float) -> None:
        self.lose(worker.id, message.header.get("message") or "it said goodbye", now)

    # Leases.

    def _lease(self, request: Request, worker: Worker, now: float) -> None:
        request.move("lease")
        request.attempt += 1
        request.holders += 1
        request.leased_at = worker.leased_at = now
        attempt = request.attempt
        while (request.id, attempt) in worker.in_hand:
            attempt += 1  # it still computes for an earlier asking of the same id
        waited_s = now - request.queued_at
        length_s = lease_s(worker, self._timers.shortest_lease_ms / 1e3)
        lease = Lease(request, worker, attempt, now, waited_s, length_s, self._beats)
        worker.hold(lease)
        if request.attempt < MAX_ATTEMPTS:
            # The last attempt may run to the deadline: there is nowhere else to go.
            self._leases.add(now + length_s, lease)
        given = request.header
        self._tell(
            worker.id,
            "infer",
            payload=request.payload,
            id=request.id,
            attempt=attempt,
            deadline_ms=(request.deadline - now) * 1e3,
            buffers=given.get("buffers", False),
            session=given.get("session", ""),
            robot=given.get("robot", ""),
        )

    def _end_lease(self, worker: Worker, message: WorkerMessage, now: float) -> Lease | None:
        """Free the slot; returns the lease if its request still wants an answer."""
        key = message.header.get("id"), message.header.get("attempt", 0)
        lease = worker.in_hand.get(key)  # type: ignore[arg-type]
        if lease is None:
            self._core.counters["dropped foreign reply"] += 1
            return None
        self._release(lease)
        if message.header["kind"] == "result":  # a refusal takes no time
            # One that was stopped for an hour, or a clock that jumped, is not how fast it is:
            # believe in a slowness step by step.
            worker.took(min(now - lease.started_at, 2.0 * lease.length_s))
        self._clear(worker)
        if lease.request.is_final:
            self._core.counters["dropped late reply"] += 1
            return None
        return lease

    def _overrun(self, lease: Lease, now: float) -> None:
        if lease.request.is_final:
            return
        worker = lease.worker
        lease.overdue = True
        worker.move("overdue")
        self._core.log(
            logging.WARNING,
            f"worker {_name(worker)} is suspect: a request is overdue after "
            f"{(now - lease.started_at) * 1e3:.0f} ms",
            **_about(worker),
            request=str(lease.request.id),
        )
        self._core.counters["leases overrun"] += 1
        self._core.requeue(lease.request, now)

    def _release(self, lease: Lease) -> None:
        lease.worker.let_go(lease)
        lease.request.holders -= 1
        self._leases.discard(lease)

    def _retry(self, request: Request, now: float) -> None:
        if request.state is not RequestState.LEASED or request.holders:
            return
        if request.attempt < MAX_ATTEMPTS:
            self._core.counters["moved"] += 1
            self._core.requeue(request, now)
        else:
            self._core.fail(
                request,
                errors.WorkerLost(
                    f"{request.attempt} workers were lost with this request in hand: it is not "
                    "tried again, as it may be what kills them. Look at the workers' logs"
                ),
            )

    def _clear(self, worker: Worker) -> None:
        """A suspect that was heard and is overdue with nothing may be trusted again."""
        if worker.state is WorkerState.SUSPECT and not any(
            lease.overdue for lease in worker.in_hand.values()
        ):
            worker.move("cleared")
            self._core.log(logging.INFO, f"worker {_name(worker)} is trusted again")

    def _tell(self, worker: bytes, kind: str, payload: Payload = (), **fields: object) -> None:
        header = {"v": VERSION, "kind": kind, "epoch": self.epoch, **fields}
        self._core.command(ToWorker(worker, header, payload))


def _name(worker: Worker) -> str:
    return f"{worker.policy}/{worker.id.hex()[:8]}"


def _about(worker: Worker) -> dict[str, str]:
    return {"policy": worker.policy, "worker": worker.id.hex()[:8]}


def _short(digest: str | None) -> str:
    return "still unknown" if digest is None else digest[:12]
