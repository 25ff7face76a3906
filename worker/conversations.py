"""What one worker and its brokers say to each other: the sockets, the clock and the sessions.

`worker.session` decides what is said to a broker and when; this carries it out. One thread at a
time may use it; `worker.service` says which.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Sequence
from typing import Any

import zmq

from client import errors
from client.keys import Key
from client.wire import VERSION
from worker.answers import Answer, Job
from worker.connection import Connection, Watched
from worker.errors import WorkerError, missing_extra
from worker.events import (
    BROKEN,
    Answered,
    Command,
    Disconnected,
    Event,
    Exit,
    KeyRefused,
    Log,
    PolicyBroken,
    PolicyReady,
    Received,
    Renew,
    Run,
    Send,
    Stop,
    Tick,
    Undecodable,
)
from worker.inference import Broken, Report, Warm
from worker.intake import MAX_BYTES, Intake
from worker.policy import Policy, introduce
from worker.sessions import Sessions

logger = logging.getLogger("worker")

_READABLE = int(zmq.POLLIN)


class Conversations:
    """With all brokers, one or several. Requests become `jobs`; `take` gets what became of them."""

    def __init__(
        self,
        policy: Policy,
        *,
        name: str,
        brokers: Sequence[str],
        slots: int,
        key: Key | None = None,
    ) -> None:
        """Open a socket to each broker, which need not be there yet.

        Args:
            policy: what is served.
            name: what robots ask for.
            brokers: their backends, such as `tcp://127.0.0.1:8001`.
            slots: requests in hand at once, of all brokers together, and the largest batch that
                the policy gets.
            key: this worker's, where the broker asks for keys.

        Raises:
            zmq.ZMQError: one of `brokers` is no address.
            client.errors.BadObservation: the policy's metadata has a value that cannot be sent.
            WorkerError: the policy's metadata or digest is not what it should be.
        """
        self._policy, self._name, self._slots = policy, name, slots
        self._incarnation = uuid.uuid4().bytes
        introduction = introduce(policy, name, slots, self._incarnation)
        self.jobs: deque[Job] = deque()  # decoded, in the order in which they are to be run
        self.exit_code: int | None = None  # once it has come to an end
        self._reports: deque[Answer] = deque()  # of other threads
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._intake = Intake(policy, self._give, self._report)
        self._connections: list[Connection] = []
        try:
            for broker in brokers:
                self._connections.append(
                    Connection(broker, self._incarnation, key, is_only=len(brokers) == 1)
                )
        except zmq.ZMQError:
            self.close()
            raise
        self._sessions = Sessions(introduction, brokers, time.monotonic())
        self._stops: deque[str] = deque()  # reasons
        self._watched: list[Watched] = []
        self._polled: Watched = []
        self._brokers: dict[Any, int] = {}  # by socket, and by the descriptor of its monitor
        self._is_warm = False

    def descriptors(self) -> list[int]:
        """What becomes readable when there may be something to `serve`."""
        self._watch()
        return [ready if isinstance(ready, int) else ready.fileno() for ready, _ in self._polled]

    def serve(self, until: float, most: int) -> bool:
        """Take in what the brokers say, and say what is due.

        Args:
            until: how long to wait for a message; `time.monotonic()` value.
            most: requests to take from each broker, so that they can be run together.

        Returns:
            False if there was nothing.
        """
        now = time.monotonic()
        wake_at = self._sessions.wake_at()
        if now >= wake_at:
            self._look_at_connections()
            self._intake.tidy(now)
            self._tell(Tick())
            return True
        self._watch()
        # At most so long, until a socket, a monitor or another thread has something.
        left_ms = max(0, int((min(wake_at, until) - now) * 1e3) + 1) if until > now else 0
        ready: Any
        heard = zmq.zmq_poll(self._polled, left_ms)
        for ready, _ in heard:
            if ready == self._wake_fd:
                self._take_reports()
                self._take_stops()
            elif isinstance(ready, int):
                self._look_at_connections()
            elif ready is self._connections[at := self._brokers[ready]].socket:
                for message in self._connections[at].received(most):
                    self._take_message(message, at)
        return bool(heard)

    def wake_at(self) -> float:
        """When `serve` is to be called at the latest."""
        return self._sessions.wake_at()

    def take(self, report: Report) -> None:
        """Take in what became of a job, or of the policy."""
        if isinstance(report, Answer):
            request, fields = report.job.header, report.fields
            fields.update(self._intake.fields_for(request))
            self._tell(Answered(request, fields, report.payload))
        elif isinstance(report, Warm):
            self._is_warm = True
            try:
                again = introduce(self._policy, self._name, self._slots, self._incarnation)
            except (WorkerError, errors.BadObservation) as error:
                self._break(error)
            else:
                self._tell(PolicyReady(again, report.inference_ms))
        elif isinstance(report, Broken):
            self._break(report.error)

    def close(self) -> None:
        """Close the sockets, after a moment for what was sent last, and let go of all memory."""
        for connection in self._connections:
            connection.close()
        self._intake.close()

    def stop(self, reason: str = "it was asked to") -> None:
        """Finish what is in hand and leave; at once when called again.

        May be called from a signal handler or another thread; `reason` is logged.
        """
        self._stops.append(reason)
        os.eventfd_write(self._wake_fd, 1)

    @property
    def is_idle(self) -> bool:
        """Whether the policy is neither loading nor inferring."""
        return self._sessions.is_idle and (self._is_warm or self.exit_code == BROKEN)

    def _take_stops(self) -> None:
        while self._stops:
            logger.info("stopping: %s", self._stops.popleft())
            self._tell(Stop())

    def _give(self, job: Job) -> None:
        """Add a job; any thread may."""
        self.jobs.append(job)
        os.eventfd_write(self._wake_fd, 1)

    def _report(self, answer: Answer) -> None:
        """Add the answer to a job that needs no inference; any thread may."""
        self._reports.append(answer)
        os.eventfd_write(self._wake_fd, 1)

    def _watch(self) -> None:
        """Know what to poll: a connection has other sockets after it was made anew."""
        for watched, connection in zip(self._watched, self._connections, strict=False):
            if watched is not connection.watched:
                self._watched = []
        if self._watched:
            return
        self._watched = [connection.watched for connection in self._connections]
        self._polled = [(self._wake_fd, _READABLE)]
        self._brokers = {}
        for at, watched in enumerate(self._watched):
            self._polled += watched
            self._brokers.update((socket, at) for socket, _ in watched)
        # What the monitors said before their first look is announced no more.
        self._look_at_connections()

    def _look_at_connections(self) -> None:
        for at, connection in enumerate(self._connections):
            arrived, lost, reason = connection.look(time.monotonic())
            if reason:
                logger.error("the broker at %s %s", connection.endpoint, reason)
                self._tell(KeyRefused(), at)
            elif lost:
                self._tell(Disconnected(), at)
            elif arrived:
                self._tell(Received({"v": VERSION, "kind": "who"}), at)

    def _take_message(self, message: Received, at: int) -> None:
        header = message.header
        if header["kind"] == "welcome":
            self._intake.allow(header.get("max_bytes", MAX_BYTES))
            is_free = not self._sessions.all[at].in_hand
            connection = self._connections[at]
            if is_free and connection.approach(header.get("ipc", ""), time.monotonic()):
                return  # the broker will say it again there
        self._tell(message, at)

    def _take_reports(self) -> None:
        # The signal is cleared first: a report that comes in between signals again.
        try:  # noqa: SIM105 - `suppress` is three calls
            os.eventfd_read(self._wake_fd)
        except BlockingIOError:
            pass
        # No variable keeps an answer, and with it an observation, until the next comes.
        while self._reports:
            self.take(self._reports.popleft())

    def _break(self, error: BaseException) -> None:
        error = missing_extra(error) or error
        # A user can cause a WorkerError, and its message says how. Others need a traceback.
        traceback = None if isinstance(error, (WorkerError, errors.PolicyError)) else error
        logger.error("the policy cannot be served: %s", error, exc_info=traceback)
        self._tell(PolicyBroken(type(error).__name__))

    def _tell(self, event: Event, at: int | None = None) -> None:
        """Tell the sessions, and carry out what they ask for, until nothing follows from it.

        `at`: the broker that it is about, where it is not about all of them.
        """
        pending = [event]
        for each in pending:
            for broker, command in self._sessions.handle(each, time.monotonic(), at):
                consequence = self._carry_out(command, self._connections[broker])
                if consequence is not None:
                    pending.append(consequence)

    def _carry_out(self, command: Command, connection: Connection) -> Event | None:
        if isinstance(command, Send):
            self._send(command, connection)
        elif isinstance(command, Run):
            try:
                job = self._intake.take(command.request, command.payload)
            except errors.PolicyError as error:
                return Undecodable(command.request, error)
            if job is not None:
                self.jobs.append(job)
        elif isinstance(command, Renew):
            connection.renew()
        elif isinstance(command, Log):
            logger.log(command.level, command.text, extra={"about": command.about})
        elif isinstance(command, Exit):
            self.exit_code = command.code
        return None

    def _send(self, command: Send, connection: Connection) -> None:
        sent = connection.send(command.header, command.payload)
        if not sent and command.header["kind"] in ("result", "failure"):
            logger.warning(
                "an answer could not be sent: the connection is lost, and the robot asks again",
                extra={"about": {"request": str(command.header["id"])}},
            )
