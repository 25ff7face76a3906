"""The registry of workers: their messages, their heartbeats, and how their loss is noticed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence

from broker.config import BrokerConfig, nearby_address
from broker.events import WorkerMessage
from broker.leases import Leases
from broker.names import Names
from broker.outbox import Outbox
from broker.states import WorkerState
from broker.versions import Versions
from broker.workers import Pool, Worker
from client import errors
from client.names import is_full_name
from client.wire import Header

PROBE_S = 0.002  # from a hint that a connection is lost to an extra heartbeat
PROBE_AGAIN_S = 0.01  # from that one to another, in case the first came too early
MAX_NAMES = 1000  # of policies ever served


class Registry:
    """Registers workers, processes their messages and suspects those that fall silent."""

    def __init__(
        self,
        config: BrokerConfig,
        pool: Pool,
        leases: Leases,
        names: Names,
        versions: Versions,
        outbox: Outbox,
        counters: Counter[str],
        now: float,
    ) -> None:
        self.beat_at = now  # when the next heartbeat is due
        self.offers_nearby = config.nearby  # are new workers told the nearer address?
        self._config = config
        self._timers = config.timers
        self._pool = pool
        self._leases = leases
        self._names = names
        self._versions = versions
        self._outbox = outbox
        self._counters = counters
        self._is_probing = False  # is the next heartbeat an extra one?
        self._kinds: dict[str, Callable[[Worker, WorkerMessage, float], None]] = {
            "ready": self._ready,
            "heartbeat": self._heartbeat,
            "result": leases.result,
            "failure": leases.failure,
            "goodbye": self._goodbye,
        }

    def receive(self, message: WorkerMessage, now: float) -> None:
        """Process a worker's message."""
        header = message.header
        if header["kind"] == "hello":
            self._hello(message, now)
            return
        worker = self._pool.by_id.get(message.worker)
        if worker is None or header.get("epoch") != self._outbox.epoch:
            # It means an earlier run of the broker, or was removed: it has to say hello first.
            self._counters[f"dropped {header['kind']}"] += 1
            if header["kind"] != "goodbye":
                self._outbox.tell(message.worker, "who")
            return
        worker.heard_at = now
        self._kinds[header["kind"]](worker, message, now)

    def probe(self, workers: Sequence[bytes], now: float) -> None:
        """Send something to workers whose connections may be lost: if they are, sending fails.

        The monitor can report a loss before the socket knows of it, and then sending seems to
        succeed. So two extra heartbeats follow soon.
        """
        for worker in workers:
            if worker in self._pool.by_id:
                self._outbox.tell(worker, "who")
                self._is_probing = True
                self.beat_at = min(self.beat_at, now + PROBE_S)

    def remove(self, id: bytes, reason: str, now: float) -> None:
        """Remove a worker that is gone, and give its requests to others."""
        worker = self._pool.by_id.get(id)
        if worker is None:
            return
        worker.move("lost")
        self._pool.remove(worker, now)
        level = logging.INFO if worker.policy and not worker.in_hand else logging.WARNING
        requests = ", ".join(str(request) for request, _ in worker.in_hand)
        text = f"worker {worker.name} is gone ({reason})"
        self._outbox.log(level, text, **worker.about, requests=requests)
        self._counters["workers lost"] += 1
        for lease in list(worker.in_hand.values()):
            self._leases.take_back(lease, now)
        self._names.settle(worker.policy, now)

    def check(self, now: float) -> None:
        """Send heartbeats when they are due, and suspect the workers that fell silent."""
        if now < self.beat_at:
            return
        interval_s = self._timers.heartbeat_ms / 1e3
        self.beat_at = now + (min(PROBE_AGAIN_S, interval_s) if self._is_probing else interval_s)
        self._is_probing = False
        self._pool.beats += 1
        for worker in self._pool.by_id.values():
            self._beat(worker)
            silent_s = now - worker.heard_at
            if worker.state is WorkerState.READY and silent_s > self._timers.suspect_ms / 1e3:
                worker.move("silent")
                self._outbox.log(
                    logging.WARNING,
                    f"worker {worker.name} is suspect: nothing heard for {silent_s:.1f} s",
                    **worker.about,
                )

    def _beat(self, worker: Worker) -> None:
        shared = {} if worker.grant is None else self._leases.demand(worker)
        self._outbox.tell(worker.id, "heartbeat", n=self._pool.beats, **shared)

    # What workers say of themselves.

    def _hello(self, message: WorkerMessage, now: float) -> None:
        header = message.header
        known = self._pool.by_id.get(message.worker)
        try:
            worker = known or self._register(message, now)
            self._identify(worker, message)
        except errors.PolicyError as error:
            self._outbox.tell(message.worker, "error", **errors.to_wire(error))
            self._outbox.log(logging.WARNING, f"refused a worker: {error}")
            if known is not None:
                self.remove(known.id, "it was refused", now)
            return
        worker.heard_at = now
        about: Header = {
            "heartbeat_ms": self._timers.heartbeat_ms,
            "max_bytes": self._config.limits.max_bytes,
        }
        if self.offers_nearby:
            about["ipc"] = nearby_address(self._outbox.epoch)
        if worker.grant is not None:
            about["grant"] = worker.grant  # so it knows that we remember what we gave
        self._outbox.tell(worker.id, "welcome", **about)
        if header.get("state") == "draining":
            worker.move("drain")
        self._names.settle(worker.policy, now)

    def _register(self, message: WorkerMessage, now: float) -> Worker:
        header, payload = message.header, message.payload
        if "policy" not in header or "incarnation" not in header or not payload:
            raise errors.ProtocolError("hello needs policy, incarnation and metadata in its body")
        policy, limit, pool = header["policy"], self._config.limits.max_workers, self._pool
        if len(pool.by_id) >= limit:
            raise errors.WorkerRefused(f"{limit} workers are here already (limits.max_workers)")
        if not is_full_name(policy):
            raise errors.WorkerRefused(f"the name {policy!r} is neither NAME nor NAME@VERSION")
        is_new_name = policy not in pool.by_policy
        if is_new_name and len(pool.by_policy) >= MAX_NAMES:
            raise errors.WorkerRefused(f"{MAX_NAMES} names were served already: reuse one")
        worker = Worker(message.worker, policy, None, header.get("horizon", 0), payload, now)
        worker.total = header.get("slots", 1)
        worker.joined_at, worker.is_loaded = now, header.get("state") == "ready"
        self._check_alike(worker, header.get("digest"))
        self._versions.add(policy, pool.by_policy)
        pool.add(worker)
        pool.metadata[policy] = payload
        self._outbox.log(logging.INFO, f"worker {worker.name} said hello")
        if is_new_name:
            self._names.resolve_waiting(now)
        return worker

    def _identify(self, worker: Worker, message: WorkerMessage) -> None:
        """Note the digest of a worker's files, which it knows only after their download."""
        digest = message.header.get("digest")
        if worker.digest is None and digest is not None:
            self._check_alike(worker, digest)
            worker.digest, worker.metadata = digest, message.payload
            self._pool.metadata[worker.policy] = message.payload

    def _check_alike(self, worker: Worker, digest: str | None) -> None:
        """Refuse a worker whose files differ from those of another worker of its name."""
        for other in self._pool.serving(worker.policy):
            differs = digest is not None and other.digest not in (None, digest)
            if other is not worker and (differs or other.horizon != worker.horizon):
                raise errors.WorkerRefused(
                    f"{worker.policy!r} is already served with digest {_short(other.digest)} and"
                    f" horizon {other.horizon}, this worker has {_short(digest)} and"
                    f" {worker.horizon}: robots would be answered by either. Give it a version of"
                    " its own with version=..., or another name with name=..."
                )

    def _ready(self, worker: Worker, message: WorkerMessage, now: float) -> None:
        header = message.header
        worker.slots, worker.grant = header.get("slots", 1), header.get("grant")
        pace = ""
        if "inference_ms" in header:
            worker.expect(header["inference_ms"] / 1e3)
            pace = f", {worker.mean_s * 1e3:.1f} ms an inference"
        if worker.state is WorkerState.WARMING:
            text = f"worker {worker.name} is ready: {worker.slots} slots{pace}"
            self._outbox.log(logging.INFO, text)
        worker.move("ready")
        self._names.settle(worker.policy, now)
        if worker.grant is not None:
            self._beat(worker)  # which tells it whether requests wait here

    def _heartbeat(self, worker: Worker, message: WorkerMessage, now: float) -> None:
        self._leases.release_lost(worker, message, now)
        if worker.grant is not None:
            self._regrant(worker, message.header)
        state = message.header.get("state")
        if state == "draining":
            self._drain(worker, now)
        elif worker.is_retired:
            self._outbox.tell(worker.id, "retire")  # it was lost with a connection
        elif state == "ready" and worker.state is WorkerState.WARMING:
            self._outbox.tell(worker.id, "who")  # its `ready` was lost with a connection
        self._leases.trust_again(worker)

    def _drain(self, worker: Worker, now: float) -> None:
        is_news = worker.state is not WorkerState.DRAINING
        worker.move("drain")
        if is_news:
            self._names.settle(worker.policy, now)

    def _regrant(self, worker: Worker, header: Header) -> None:
        """Take in the share of a worker's slots; what was taken back is acknowledged at once.

        What was sent to it before has come there before the acknowledgement. And slots that come
        when nothing waits any more are of use to another broker: it hears that at once too.
        """
        grant = header.get("grant", 0)
        if worker.grant is None or grant <= worker.grant:
            return
        is_fewer = worker.regrant(header.get("slots", 0), grant)
        if is_fewer or not self._leases.is_waited_for(worker):
            self._beat(worker)

    def _goodbye(self, worker: Worker, message: WorkerMessage, now: float) -> None:
        self.remove(worker.id, message.header.get("message") or "it said goodbye", now)


def _short(digest: str | None) -> str:
    return "still unknown" if digest is None else digest[:12]
