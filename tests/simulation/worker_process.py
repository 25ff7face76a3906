"""`worker.service` and `worker.inference` on simulated time, word for word towards the broker."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from client import errors
from client.body import encode_body
from client.wire import TO_WORKER, VERSION, Header, RequestId, decode_header, encode_header
from tests.simulation.clock import Clock
from tests.simulation.network import Connection, Link, Listener, Message, Socket
from tests.simulation.schedule import WorkerSpec
from tests.simulation.violation import Violation

FORGED = b"forged"  # the payload of a lie

_DRAIN_S = 0.8
_METADATA: Message = [bytes(frame) for frame in encode_body({"model": "tiny"}, buffers=False)]


class Keeper(Protocol):
    """Whoever started a worker: told when it ends."""

    def ended(self, worker: WorkerProcess, why: str) -> None:
        """`why` is stopped, crashed or refused."""


@dataclass(slots=True, eq=False)
class Job:
    """One attempt at one request; `registration` is the core's own record of this worker."""

    header: Header
    body: bytes
    received_at: float
    registration: Any

    @property
    def key(self) -> tuple[RequestId, int, int]:
        """What the worker keeps it under."""
        return self.header["id"], self.header["attempt"], self.header["epoch"]


class WorkerProcess:
    """One incarnation of a worker."""

    def __init__(
        self,
        clock: Clock,
        spec: WorkerSpec,
        link: Link,
        listener: Listener,
        keeper: Keeper,
        incarnation: bytes,
    ) -> None:
        self.spec = spec
        self.alive = True
        self.slow = 1.0  # times longer than its own inference time
        self.most_held = 0
        self.last_result: Header | None = None
        self.epoch: int | None = None
        self.in_hand: dict[tuple[RequestId, int, int], Job] = {}
        self._clock, self._keeper = clock, keeper
        self._random = Random(incarnation)
        self._incarnation = incarnation
        self._digest = None if spec.downloads else spec.digest
        self._jobs: deque[Job] = deque()
        self._on_device: list[Job] = []
        self._hung_until = 0.0
        self._warm = False
        self._beat = 0
        self._interval_s = 0.1
        self._draining_until: float | None = None
        self._stopped: list[tuple[Any, ...]] | None = None  # SIGSTOP: what waits for SIGCONT
        self._socket = Socket(self, link, listener, "workers", b"w" + incarnation)
        clock.after(spec.warm_up_s, self._run, self._warmed)
        self._run(self._beat_or_hello)

    @property
    def identity(self) -> bytes:
        """The routing id."""
        return self._socket.identity

    @property
    def connection(self) -> Connection | None:
        """To the broker, if there is one."""
        return self._socket.connection

    @property
    def is_stopped(self) -> bool:
        """Is it under SIGSTOP?"""
        return self._stopped is not None

    # Signals.

    def crash(self) -> None:
        """As on SIGKILL."""
        self._end("crashed")

    def drain(self) -> None:
        """As on SIGTERM."""
        if self._draining_until is None:
            self._draining_until = self._clock.now + _DRAIN_S
            self._run(self._beat_or_hello, False)

    def stall(self) -> None:
        """As on SIGSTOP."""
        if self.alive and self._stopped is None:
            self._stopped = []
            self._socket.freeze()

    def resume(self) -> None:
        """As on SIGCONT."""
        if self._stopped is not None:
            missed, self._stopped = self._stopped, None
            self._socket.thaw()
            for action, *arguments in missed:
                self._run(action, *arguments)

    def hang(self, until: float) -> None:
        """The device does nothing until then; heartbeats go on."""
        self._hung_until = until

    def say(self, fields: Header, payload: Sequence[bytes] = ()) -> bool:
        """Send now or not at all."""
        header: Header = {"v": VERSION, **fields}
        if self.epoch is not None:
            header.setdefault("epoch", self.epoch)
        return self._socket.send([encode_header(header), *payload])

    def _run(self, action: Any, *arguments: Any) -> None:
        if self._stopped is not None:
            self._stopped.append((action, *arguments))
        elif self.alive:
            action(*arguments)

    def _end(self, why: str) -> None:
        if self.alive:
            self.alive = False
            self._socket.close()
            self._keeper.ended(self, why)

    # The socket.

    def connected(self, socket: Socket) -> None:
        """Nothing is said until the next beat."""

    def disconnected(self, socket: Socket) -> None:
        """The socket connects again by itself, and the broker will ask."""

    def receive(self, socket: Socket, message: Message, note: Any) -> None:
        """The broker sent this."""
        if socket is not self._socket or not self.alive:
            return
        header = decode_header(message[0], TO_WORKER)
        kind = header["kind"]
        if kind == "infer":
            self._infer(Job(header, b"".join(message[1:]), self._clock.now, note))
        elif kind == "heartbeat":
            if header["epoch"] == self.epoch:
                self._beat = header["n"]
        elif kind == "who":
            self.hello()
        elif kind == "welcome":
            self.epoch, self._beat = header["epoch"], 0
            self._interval_s = header["heartbeat_ms"] / 1e3
            self._say_ready()
        elif kind == "error":
            self._end("refused")

    def _infer(self, job: Job) -> None:
        self.in_hand[job.key] = job
        self.most_held = max(self.most_held, len(self.in_hand))
        together = [j for j in self.in_hand.values() if j.registration is job.registration]
        if len(together) > self.spec.slots:
            raise Violation(3, f"{len(together)} requests for {self.spec.slots} slots")
        self._jobs.append(job)
        if not self._on_device:
            self._begin()

    def hello(self) -> None:
        fields: Header = {
            "kind": "hello",
            "incarnation": self._incarnation,
            "policy": self.spec.policy,
            "horizon": 4,
            "state": self._state(),
            "slots": self.spec.slots,
        }
        if self._digest is not None:
            fields["digest"] = self._digest
        self.say(fields, _METADATA)

    def _say_ready(self) -> None:
        if self._warm and self.epoch is not None:
            inference_ms = self.spec.inference_s * 1e3
            self.say({"kind": "ready", "slots": self.spec.slots, "inference_ms": inference_ms})

    def _state(self) -> str:
        if self._draining_until is not None:
            return "draining"
        return "ready" if self._warm else "warming"

    def _beat_or_hello(self, again: bool = True) -> None:
        now = self._clock.now
        if again:
            self._clock.after(self._interval_s, self._run, self._beat_or_hello)
        if self._draining_until is not None and (not self.in_hand or now >= self._draining_until):
            self.say({"kind": "goodbye", "message": "it was stopped"})
            self._end("stopped")
            return
        if self.epoch is None:
            self.hello()
            return
        ids = [[id, attempt] for id, attempt, epoch in self.in_hand if epoch == self.epoch]
        self.say({"kind": "heartbeat", "n": self._beat, "ids": ids, "state": self._state()})

    # The device.

    def _warmed(self) -> None:
        self._warm = True
        if self._digest is None:
            self._digest = self.spec.digest
            self.hello()
        self._say_ready()

    def _begin(self) -> None:
        """Take the next jobs; those that are too late fail without being computed."""
        while self._jobs and not self._on_device:
            taken = self.spec.slots if self.spec.batched else 1
            jobs = [self._jobs.popleft() for _ in range(min(taken, len(self._jobs)))]
            for job in jobs:
                if self._clock.now > job.received_at + job.header["deadline_ms"] / 1e3:
                    self._answer(job, {"kind": "failure", "code": "deadline_exceeded"})
                else:
                    self._on_device.append(job)
        if self._on_device:
            spent_s = self.spec.inference_s * self.slow * (0.8 + 0.4 * self._random.random())
            self._clock.after(spent_s, self._run, self._finish)

    def _finish(self) -> None:
        left_s = self._hung_until - self._clock.now
        if left_s > 0:
            self._clock.after(min(left_s, 0.05), self._run, self._finish)
            return
        jobs, self._on_device = self._on_device, []
        if any(job.body.startswith(b"kills") for job in jobs):
            self._end("crashed")
            return
        for job in jobs:
            if job.body.startswith(b"bad"):
                fields = {"kind": "failure", **errors.to_wire(errors.BadObservation("state"))}
                self._answer(job, fields)
            else:
                payload = [self.spec.policy.encode() + b"|" + job.body]
                self._answer(job, {"kind": "result", "timing": {"infer_ms": 1.0}}, payload)
        self._begin()

    def _answer(self, job: Job, fields: Header, payload: Sequence[bytes] = ()) -> None:
        # After a lost connection the same attempt may have come twice: each is answered.
        self.in_hand.pop(job.key, None)
        fields = {**fields, "id": job.header["id"], "attempt": job.header["attempt"]}
        self.last_result = fields
        if job.header["epoch"] == self.epoch:
            self.say(fields, payload)
