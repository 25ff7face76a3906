"""The worker's process around its session: the socket, the clock and the inference thread.

What is said to the broker and when is `worker.session`'s; this carries it out. Nothing here waits
for the policy, which has a thread of its own (`worker.inference`), so the broker hears of this
process ten times a second whatever the model does.
"""

from __future__ import annotations

import logging
import os
import select
import time
import uuid
from collections import deque

import zmq

from client import errors
from client.keys import Key
from client.wire import VERSION
from worker.connection import Connection
from worker.errors import WorkerError, missing_extra
from worker.events import (
    BROKEN,
    REFUSED,
    Answered,
    Command,
    Event,
    Exit,
    Log,
    PolicyBroken,
    PolicyReady,
    Received,
    Run,
    Send,
    Stop,
    Tick,
    Undecodable,
)
from worker.inference import Answer, Broken, InferenceThread, Job, Report, Warm
from worker.intake import MAX_BYTES, Intake
from worker.policy import Policy, introduce
from worker.session import Session

logger = logging.getLogger("worker")


class Service:
    """Serves a policy under a name at one broker, until stopped."""

    def __init__(
        self,
        policy: Policy,
        *,
        name: str,
        broker: str,
        slots: int,
        batch_wait_s: float = 0.0,
        key: Key | None = None,
    ) -> None:
        """Open the socket; the broker need not be there yet.

        Args:
            policy: what is served; `load` and `warm_up` are called by `run`.
            name: what robots ask for.
            broker: its backend, such as `tcp://127.0.0.1:8001`.
            slots: requests in hand at once, and the largest batch that the policy gets.
            batch_wait_s: how long a batch with one request waits for others.
            key: this worker's, where the broker asks for keys.

        Raises:
            zmq.ZMQError: `broker` is no address.
            client.errors.BadObservation: the policy's metadata holds what cannot be sent.
            WorkerError: the policy's metadata or digest is not what it should be.
        """
        self._policy, self._name, self._slots = policy, name, slots
        self._incarnation = uuid.uuid4().bytes
        introduction = introduce(policy, name, slots, self._incarnation)
        self._inference = InferenceThread(policy, slots, batch_wait_s)
        self._intake = Intake(policy, self._inference.give, self._inference.report)
        self._connection = Connection(broker, self._incarnation, key)
        self._session = Session(introduction, broker, time.monotonic())
        self._decoded: deque[Job] = deque()
        self._stops: deque[str] = deque()  # reasons
        self._polled: tuple[zmq.Socket[bytes], ...] = ()
        self._poller = select.poll()
        self._monitor_spoke = True
        self._is_warm = False
        self._exit_code: int | None = None

    def run(self) -> int:
        """Serve until `stop` or a fatal error; returns the exit code."""
        self._inference.start()
        while self._exit_code is None:
            self._take_stops()
            is_due = time.monotonic() >= self._session.wake_at()
            if is_due or self._monitor_spoke:
                self._look_at_connection()
            if is_due:
                self._intake.tidy(time.monotonic())
                self._tell(Tick())
            self._take_reports()
            # Last, since sending may consume the edge by which the socket's descriptor tells of
            # a message; and the inference thread gets its jobs when we are about to sleep.
            for message in self._connection.received():
                self._take_message(message)
            while self._decoded:
                self._inference.give(self._decoded.popleft())
            if self._exit_code is None:
                self._wait(self._session.wake_at() - time.monotonic())
        self._connection.close()
        self._intake.close()
        return self._exit_code

    def stop(self, reason: str = "it was asked to") -> None:
        """Finish what is in hand and leave; at once when called again.

        May be called from a signal handler or another thread; `reason` is logged.
        """
        self._stops.append(reason)
        os.eventfd_write(self._inference.wake_fd, 1)

    @property
    def is_idle(self) -> bool:
        """Whether the inference thread is neither loading nor inferring."""
        return not self._session.in_hand and (self._is_warm or self._exit_code == BROKEN)

    def _take_stops(self) -> None:
        while self._stops:
            logger.info("stopping: %s", self._stops.popleft())
            self._tell(Stop())

    def _wait(self, seconds: float) -> None:
        sockets = self._connection.sockets
        if sockets is not self._polled:
            self._poller, self._polled = select.poll(), sockets
            for pollable in (*sockets, self._inference.wake_fd):
                self._poller.register(pollable, select.POLLIN)
        monitor = sockets[1].fileno()
        ready = self._poller.poll(max(0.0, seconds) * 1e3 + 0.5)
        self._monitor_spoke = any(descriptor == monitor for descriptor, _ in ready)

    def _look_at_connection(self) -> None:
        arrived, reason = self._connection.look(time.monotonic())
        if reason:
            logger.error("the broker at %s %s", self._connection.endpoint, reason)
            self._exit_code = REFUSED
        elif arrived:
            self._tell(Received({"v": VERSION, "kind": "who"}))

    def _take_message(self, message: Received) -> None:
        header = message.header
        if header["kind"] == "welcome":
            self._intake.allow(header.get("max_bytes", MAX_BYTES))
            is_free = not self._session.in_hand
            if is_free and self._connection.approach(header.get("ipc", ""), time.monotonic()):
                return  # the broker will say it again there
        self._tell(message)

    def _take_reports(self) -> None:
        # By itself, so that no variable holds the last observation until the next comes.
        for report in self._inference.take_reports():
            self._take_report(report)

    def _take_report(self, report: Report) -> None:
        if isinstance(report, Answer):
            request = report.job.header
            fields = {**report.fields, **self._intake.fields_for(request)}
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

    def _break(self, error: BaseException) -> None:
        error = missing_extra(error) or error
        # A user can cause a WorkerError, and its message says how; of others, show where.
        traceback = None if isinstance(error, (WorkerError, errors.PolicyError)) else error
        logger.error("the policy cannot be served: %s", error, exc_info=traceback)
        self._tell(PolicyBroken(type(error).__name__))

    def _tell(self, event: Event) -> None:
        """Tell the session, and carry out what it asks for, until nothing follows from it."""
        pending = [event]
        for each in pending:
            for command in self._session.handle(each, time.monotonic()):
                consequence = self._carry_out(command)
                if consequence is not None:
                    pending.append(consequence)

    def _carry_out(self, command: Command) -> Event | None:
        if isinstance(command, Send):
            self._send(command)
        elif isinstance(command, Run):
            try:
                job = self._intake.take(command.request, command.payload)
            except errors.PolicyError as error:
                return Undecodable(command.request, error)
            if job is not None:
                self._decoded.append(job)
        elif isinstance(command, Log):
            logger.log(command.level, command.text, extra={"about": command.about})
        elif isinstance(command, Exit):
            self._exit_code = command.code
        return None

    def _send(self, command: Send) -> None:
        sent = self._connection.send(command.header, command.payload)
        if not sent and command.header["kind"] in ("result", "failure"):
            logger.warning(
                "an answer could not be sent: the connection is lost, and the robot asks again",
                extra={"about": {"request": str(command.header["id"])}},
            )
