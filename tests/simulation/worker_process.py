"""A worker's process on simulated time: the real `worker.session`, and a double of what is around.

The double stands for `worker.conversations` and the inference thread: it carries out what the
session asks for, and its device takes its time, hangs or dies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from client import errors
from client.body import encode_body
from client.wire import TO_WORKER, VERSION, Header, decode_header, encode_header
from tests.simulation.clock import Clock
from tests.simulation.network import Connection, Link, Listener, Message, Socket
from tests.simulation.schedule import WorkerSpec
from tests.simulation.violation import Violation
from worker.events import (
    DRAIN_S,
    STOPPED,
    Answered,
    Command,
    Disconnected,
    Event,
    Exit,
    Introduction,
    PolicyReady,
    Received,
    Renew,
    Run,
    Send,
    Stop,
    Tick,
    Undecodable,
    attempt_of,
)
from worker.session import Session
from worker.sessions import Directed, Sessions, SharedSession

FORGED = b"forged"  # the payload of a lie

_POLL_LATE_S = 0.0005  # the service's poll rounds up
_METADATA: Message = [bytes(frame) for frame in encode_body({"model": "tiny"}, buffers=False)]


class Keeper(Protocol):
    """Whoever started a worker: told when it ends."""

    def ended(self, worker: WorkerProcess, why: str) -> None:
        """`why` is stopped, crashed or refused."""


@dataclass(slots=True, eq=False)
class Job:
    """One attempt at one request; `registration` is the core's own record of this worker."""

    request: Header
    body: bytes
    received_at: float
    registration: Any


class WorkerProcess:
    """One incarnation of a worker."""

    def __init__(
        self,
        clock: Clock,
        spec: WorkerSpec,
        ways: Sequence[tuple[Link, Listener]],
        keeper: Keeper,
        incarnation: bytes,
    ) -> None:
        self.spec = spec
        self.alive = True
        self.slow = 1.0  # times longer than its own inference time
        self.most_held = 0
        self.last_result: Header | None = None
        self._clock, self._keeper, self._ways = clock, keeper, ways  # to each broker
        self._random = Random(incarnation)
        self._incarnation = incarnation
        about = self._introduction(None if spec.downloads else spec.digest)
        self.sessions = Sessions(about, ["the broker"] * len(ways), clock.now)
        self._jobs: deque[Job] = deque()
        self._on_device: list[Job] = []
        self._unanswered: list[Job] = []
        self._arriving: Any = None  # the note of the message that the session is told of
        self._hung_until = 0.0
        self._wake = float("inf")
        self._stop_at = float("inf")
        self._left_early = self._is_refused = self._is_told_to_stop = False
        self._registrations = 0
        self._at_end: list[Connection | None] = []
        self._calm_drain: list[tuple[int, Connection | None]] = []  # see `missed`
        self._stopped: list[tuple[Any, ...]] | None = None  # SIGSTOP: what waits for SIGCONT
        self.sockets = [
            Socket(self, link, listener, "workers", b"w" + incarnation) for link, listener in ways
        ]
        clock.after(spec.warm_up_s, self._run, self._warmed)
        self._run(self._tell, Tick())

    @property
    def session(self) -> Session:
        """That with the first broker, which is lied to as well."""
        return self.sessions.all[0]

    @property
    def identity(self) -> bytes:
        """The routing id at the first broker."""
        return self.sockets[0].identity

    @property
    def share(self) -> Header:
        """What the first of several brokers was told of its share."""
        session = self.session
        if not isinstance(session, SharedSession):
            return {}
        return {"slots": session.share.granted, "grant": session.share.number}

    @property
    def is_stopped(self) -> bool:
        """Is it under SIGSTOP?"""
        return self._stopped is not None

    # Signals.

    def crash(self) -> None:
        """As on SIGKILL."""
        self._end("crashed")

    def drain(self) -> None:
        """As on SIGTERM. The operator sends one only; of several to a stopped process one comes."""
        if not self._is_told_to_stop:
            self._is_told_to_stop = True
            self._run(self._stop)

    def _stop(self) -> None:
        if self.session.state != "draining":  # a broker was first, and a second signal would hurry
            self._tell(Stop())

    def _note_drain(self) -> None:
        self._calm_drain = [
            (link.disturbances, socket.connection)
            for (link, _), socket in zip(self._ways, self.sockets, strict=True)
        ]
        self._stop_at = self._clock.now

    def stall(self) -> None:
        """As on SIGSTOP."""
        if self.alive and self._stopped is None:
            self._stopped = []
            for socket in self.sockets:
                socket.freeze()

    def resume(self) -> None:
        """As on SIGCONT."""
        if self._stopped is not None:
            missed, self._stopped = self._stopped, None
            for socket in list(self.sockets):
                socket.thaw()
            for action, *arguments in missed:
                self._run(action, *arguments)

    def hang(self, until: float) -> None:
        """The device does nothing until then; heartbeats go on."""
        self._hung_until = until

    def say(self, fields: Header, payload: Sequence[bytes] = ()) -> bool:
        """A lie: what the session never said goes out as if it had."""
        header: Header = {"v": VERSION, **fields}
        if self.session.epoch is not None:
            header.setdefault("epoch", self.session.epoch)
        return self.sockets[0].send([encode_header(header), *payload])

    def say_hello(self) -> None:
        """A lie as well: nobody has asked."""
        self._tell(Received({"v": VERSION, "kind": "who"}), 0)

    def _run(self, action: Any, *arguments: Any) -> None:
        if self._stopped is not None:
            self._stopped.append((action, *arguments))
        elif self.alive:
            action(*arguments)

    def _end(self, why: str) -> None:
        if self.alive:
            self.alive = False
            self._at_end = [socket.connection for socket in self.sockets]
            self._left_early = why == "stopped" and self._clock.now < self._stop_at + DRAIN_S
            for socket in self.sockets:
                socket.close()
            self._keeper.ended(self, why)

    # The session.

    def _tell(self, event: Event, at: int | None = None) -> None:
        """Tell the sessions, and carry out what they ask for, until nothing follows from it."""
        pending = [event]
        for each in pending:
            if isinstance(each, Undecodable):
                self._unanswered = [
                    job for job in self._unanswered if job.request is not each.request
                ]
            try:
                commands = self.sessions.handle(each, self._clock.now, at)
            except Exception as error:
                raise Violation(1, f"{each} made a worker's session raise {error!r}") from error
            if self._stop_at == float("inf") and self.session.state == "draining":
                self._note_drain()
            if isinstance(each, (Answered, Undecodable)):
                self._check_answer(each.request, commands)
            for broker, command in commands:
                consequence = self._carry_out(command, broker)
                if consequence is not None:
                    pending.append(consequence)
        if self.alive:
            self._plan_wake()

    def _check_answer(self, request: Header, commands: Sequence[Directed]) -> None:
        """Each attempt is answered once, to the broker that has given it and to no other."""
        id, attempt, epoch = attempt_of(request)
        broker = request.get("broker", 0)
        is_expected = epoch == self.sessions.all[broker].epoch and self._is_current(request)
        expected = [(broker, id, attempt, epoch)] if is_expected else []
        sent = [(at, each.header) for at, each in commands if isinstance(each, Send)]
        if len(self._ways) > 1:  # and others may hear that they may have more
            sent = [(at, header) for at, header in sent if header["kind"] != "heartbeat"]
        if [(at, *attempt_of(header)) for at, header in sent] != expected:
            raise Violation(1, f"{self.identity!r} answers {id}, attempt {attempt}, with {sent}")

    def _is_current(self, request: Header) -> bool:
        """Was it given over the connection that its broker has now?"""
        identity = request.get("given to")
        return identity == self.sockets[request.get("broker", 0)].identity

    def _carry_out(self, command: Command, broker: int) -> Event | None:
        kind = type(command)
        if kind is Send:
            self._send(command, broker)  # type: ignore[arg-type]
        elif kind is Run:
            return self._take(command, broker)  # type: ignore[arg-type]
        elif kind is Renew:
            self._renew(broker)
        elif kind is Exit:
            if command.code != STOPPED and not self._is_refused:  # type: ignore[union-attr]
                raise Violation(5, f"{self.identity!r} left though it was not refused")
            self._end("refused" if self._is_refused else "stopped")
        return None

    def _renew(self, broker: int) -> None:
        self._registrations += 1
        self.sockets[broker].close()
        link, listener = self._ways[broker]
        identity = b"w%s/%d" % (self._incarnation, self._registrations)
        self.sockets[broker] = Socket(self, link, listener, "workers", identity)

    def _send(self, command: Send, broker: int) -> None:
        kind = command.header["kind"]
        if kind in ("result", "failure"):
            self.last_result = command.header
        elif kind == "heartbeat":
            self._check_ids(command.header, broker)
        self.sockets[broker].send([encode_header(command.header), *command.payload])  # type: ignore[list-item]

    def _check_ids(self, heartbeat: Header, broker: int) -> None:
        """A heartbeat names what the process has of this broker, no more and no less."""
        told = {(id, attempt) for id, attempt in heartbeat["ids"]}
        held = [
            attempt_of(job.request)
            for job in self._unanswered
            if job.request.get("broker", 0) == broker and self._is_current(job.request)
        ]
        if told != {(id, attempt) for id, attempt, epoch in held if epoch == heartbeat["epoch"]}:
            raise Violation(4, f"{self.identity!r} has {held} and says {told}")

    def _plan_wake(self) -> None:
        wake = self.sessions.wake_at() + _POLL_LATE_S
        if wake < self._wake:
            self._wake = wake
            self._clock.at(wake, self._run, self._tick, wake)

    def _tick(self, planned: float) -> None:
        if planned == self._wake:
            self._wake = float("inf")
            self._tell(Tick())

    def _introduction(self, digest: str | None) -> Introduction:
        spec = self.spec
        return Introduction(self._incarnation, spec.policy, spec.slots, 4, digest, _METADATA)

    # The socket.

    def connected(self, socket: Socket) -> None:
        """Nothing is said until the next beat; of several brokers each is greeted at once."""
        if self.alive and len(self.sockets) > 1 and socket in self.sockets:
            self._tell(Received({"v": VERSION, "kind": "who"}), self.sockets.index(socket))

    def disconnected(self, socket: Socket) -> None:
        """The socket connects again by itself, and the broker will ask; one of several is left."""
        if self.alive and len(self.sockets) > 1 and socket in self.sockets:
            self._tell(Disconnected(), self.sockets.index(socket))

    def receive(self, socket: Socket, message: Message, note: Any) -> None:
        """The broker sent this."""
        if socket in self.sockets and self.alive:
            self._arriving = note
            header = decode_header(message[0], TO_WORKER)
            self._is_refused |= header.get("code") == errors.WorkerRefused.code()
            header["given to"] = socket.identity
            self._tell(Received(header, message[1:]), self.sockets.index(socket))

    def missed(self, socket: Socket, message: Message) -> None:
        """The broker sent this, and it came when the process had ended.

        One that drained, undisturbed and with time left, must have waited for it.
        """
        if not self._calm_drain or not self._at_end or socket not in self.sockets:
            return
        at = self.sockets.index(socket)
        calm = self._calm_drain[at] == (self._ways[at][0].disturbances, self._at_end[at])
        if calm and self._left_early and decode_header(message[0])["kind"] == "infer":
            raise Violation(1, f"{self.identity!r} left while a request was on its way to it")

    # Decoding and the device.

    def _take(self, run: Run, broker: int) -> Event | None:
        """As the service decodes a request and queues it for the inference thread."""
        job = Job(run.request, b"".join(run.payload), self._clock.now, self._arriving)  # type: ignore[arg-type]
        self._unanswered.append(job)
        self.most_held = max(self.most_held, len(self._unanswered))
        if len(self._ways) > 1 and len(self._unanswered) > self.spec.slots:
            held = [each.request for each in self._unanswered]
            raise Violation(3, f"{len(held)} requests for {self.spec.slots} slots: {held}")
        together = [each for each in self._unanswered if each.registration is job.registration]
        if len(together) > self.spec.slots:
            raise Violation(3, f"{len(together)} requests for {self.spec.slots} slots")
        if job.body.startswith(b"garbled"):
            return Undecodable(job.request, errors.ProtocolError("no body"))
        self._jobs.append(job)
        if not self._on_device:
            self._begin()
        return None

    def _warmed(self) -> None:
        ready = PolicyReady(self._introduction(self.spec.digest), self.spec.inference_s * 1e3)
        self._tell(ready)

    def _begin(self) -> None:
        """Take the next jobs; those that are too late fail without being computed."""
        while self._jobs and not self._on_device:
            taken = self.spec.slots if self.spec.batched else 1
            jobs = [self._jobs.popleft() for _ in range(min(taken, len(self._jobs)))]
            for job in jobs:
                if self._clock.now > job.received_at + job.request["deadline_ms"] / 1e3:
                    self._answer(job, errors.to_wire(errors.DeadlineExceeded("too late")))
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
            self._compute(job)
        self._begin()

    def _compute(self, job: Job) -> None:
        if job.body.startswith(b"bad"):
            self._answer(job, errors.to_wire(errors.BadObservation("state")))
            return
        answer = self.spec.policy.encode() + b"|" + job.body
        if job.body.startswith(b"bloated"):
            answer += bytes(2_000)  # more than any broker here takes
        self._answer(job, {"timing": {"infer_ms": 1.0}}, [answer])

    def _answer(self, job: Job, fields: Header, payload: Sequence[bytes] = ()) -> None:
        self._unanswered.remove(job)
        kind = "result" if payload else "failure"
        self._tell(Answered(job.request, {"kind": kind, **fields}, payload))
