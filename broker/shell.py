"""The shell around the core: it owns the sockets and the clock, in one thread.

Payload frames are sent as the very objects that were received, so libzmq passes a reference and
no image is copied.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import zmq

from broker.access import KeyFolder, TeamFile, Zap
from broker.config import BrokerConfig
from broker.core import Core
from broker.doors import (
    CannotBind,
    Monitor,
    Socket,
    check_frames,
    open_backend,
    open_frontend,
    robot_at_wrong_door,
    send_now,
    worker_at_wrong_door,
)
from broker.events import (
    Command,
    ConnectionLost,
    Event,
    Log,
    RobotMessage,
    Stop,
    Tapped,
    Tick,
    ToRobot,
    ToWorker,
    WorkerMessage,
    WorkerUnreachable,
)
from broker.nearby import NearbyDoors
from broker.outbox import error_header
from broker.security import BACKEND, FRONTEND
from broker.tap import Tap
from client import errors
from client.wire import (
    FROM_CLIENT,
    FROM_WORKER,
    MAX_FRAMES,
    Frame,
    Header,
    decode_header,
    encode_header,
    split_envelope,
    take,
)

logger = logging.getLogger("broker")

# Between the last answer and the end. A robot's libzmq drops an answer that it has not read yet
# when it notices that the connection is closed (measured).
_PARTING_S = 0.2
_FOR_EVER = float("inf")
_READABLE, _SOURCE = int(zmq.POLLIN), int(zmq.SRCFD)  # pyzmq's enumerations are slower


class Shell:
    """Binds both ports and runs the core over them until stopped."""

    def __init__(self, config: BrokerConfig) -> None:
        """Read keys and teams, if there are any, and bind.

        Raises:
            ValueError: keys or teams cannot be read.
            CannotBind: an address that this process cannot listen at.
        """
        self._config = config
        self._keys = None if config.keys is None else KeyFolder(Path(config.keys))
        self._guard = None if self._keys is None else self._keys.guard
        keyring = None if self._keys is None else self._keys.keyring
        epoch = secrets.randbits(62)
        self._teams = TeamFile(config.fairness.teams, self._keys)
        self._core = Core(config, epoch, time.monotonic(), self._teams.teams)
        self.counters = self._core.counters
        self._context: zmq.Context[Socket] = zmq.Context()
        self._tap: Tap | None = None
        self._serve: dict[Socket | int, Callable[[], object]] = {}  # by socket, or by descriptor
        try:
            if self._guard is not None:
                zap = Zap(self._context, self._guard, self.counters)
                self._serve[zap.socket] = zap.serve
            self._frontend = open_frontend(self._context, config, keyring)
            self._backend = open_backend(self._context, config, keyring)
            if config.tap is not None:
                self._tap = Tap(config, config.tap, self.counters)
                self._serve[self._tap.socket] = self._serve_tap
                self._serve[self._tap.door] = self._tap.admit
                self._serve[self._tap.monitor.fileno()] = self._tap.look
        except CannotBind:
            self._context.destroy(linger=0)
            raise
        self._robots = Monitor(self._frontend, FRONTEND, self.counters)
        self._workers = Monitor(self._backend, BACKEND, self.counters)
        self._nearby = NearbyDoors(self._frontend, self._backend, config, epoch)
        self._last_heard_on: dict[int, set[bytes]] = {}  # backend fd: workers
        self._stop_reason = ""  # empty until it is told to stop
        self._is_draining = self._is_parting = self._reloading = False
        self._until = _FOR_EVER  # when the next step of stopping is due
        self._serve[self._frontend] = self._serve_frontend
        self._serve[self._backend] = self._serve_backend
        # A monitor's descriptor is enough: it is read until it is empty, and only here.
        self._serve[self._robots.socket.fileno()] = self._serve_robots_monitor
        self._serve[self._workers.socket.fileno()] = self._serve_workers_monitor
        self._polled = [(served, _READABLE) for served in self._serve]

    def run(self) -> None:
        """Serve until `stop` is called and what workers have in hand is answered."""
        self._serve_robots_monitor()  # what came before is announced no more
        self._serve_workers_monitor()
        timeout_ms = 0
        while True:
            # One message of each: a peer that never stops sending must not keep us here.
            for served, _ in zmq.zmq_poll(self._polled, timeout_ms):
                self._serve[served]()
            now = time.monotonic()
            if self._reloading:
                self._reloading = False
                self._read_keys_again()
            if self._stop_reason and self._may_leave(now):
                break
            wake_at = min(self._core.wake_at(), self._until)
            if wake_at <= now:
                self._do(Tick(), now)
                timeout_ms = 0
            else:
                timeout_ms = int((wake_at - now) * 1e3) + 1
        self._close()

    def stop(self, reason: str) -> None:
        """Have `run` finish, and log why; may be called from a signal handler."""
        self._stop_reason = self._stop_reason or reason

    def _may_leave(self, now: float) -> bool:
        """Take the next step of stopping; True when all are answered and had time to read it."""
        if not self._is_draining:
            logger.info("stopping: %s", self._stop_reason)
            self._is_draining = True
            self._until = now + self._config.timers.drain_ms / 1e3
            self._do(Stop(), now)
        if self._is_parting:
            return now >= self._until
        if now >= self._until or not self._core.in_hand:
            self._do(Stop(), now)
            self._is_parting, self._until = True, now + _PARTING_S
        return False

    def reload(self) -> None:
        """Have `run` read keys and teams again; may be called from a signal handler."""
        self._reloading = True

    def _read_keys_again(self) -> None:
        if self._keys is not None:
            self._keys.read_again()
        elif self._config.fairness.teams is None:
            logger.warning("there are no keys to read again: start with keys=FOLDER")
        self._teams.read_again(self._core.inflight.fairness)

    def _serve_frontend(self) -> None:
        frames = take(self._frontend)
        if frames is None:
            return
        # As a REQ sends it, with no more frames than are allowed: nothing is left to be checked.
        is_usual = 2 < len(frames) <= MAX_FRAMES and len(frames[1]) == 0
        try:
            envelope, message = (frames[:2], frames[2:]) if is_usual else split_envelope(frames)
        except errors.ProtocolError:
            self._turn_away(frames)
            return
        header: Header = {}
        sender, peer = envelope[0].bytes, ""
        try:
            if not is_usual:
                check_frames(envelope, message)
            header = decode_header(message[0], FROM_CLIENT)
            if self._guard is not None:
                peer = self._guard.admit_robot(_key_of(envelope[0]), sender, header).name
        except errors.PolicyError as error:
            self._refuse(self._frontend, envelope, error, header)
            return
        event = RobotMessage(sender, envelope, header, message[1:], peer)
        self._do(event, time.monotonic())

    def _turn_away(self, frames: Sequence[zmq.Frame]) -> None:
        """Answer a message without an envelope, if it is a worker's at the wrong port."""
        try:
            decode_header(frames[1] if len(frames) > 1 else b"", FROM_WORKER)
        except errors.PolicyError:
            self.counters["garbage without an envelope"] += 1
            return
        self._refuse(self._frontend, frames[:1], worker_at_wrong_door(self._config), {})

    def _serve_backend(self) -> None:
        frames = take(self._backend)
        if frames is None:
            return
        worker = frames[0].bytes
        if len(frames) > 2 and len(frames[1]) == 0:
            self._refuse(self._backend, frames[:2], robot_at_wrong_door(self._config), {})
            return
        try:
            if not 1 < len(frames) <= MAX_FRAMES:
                check_frames(frames[:1], frames[1:])
            header = decode_header(frames[1], FROM_WORKER)
            if self._guard is not None:
                self._guard.admit_worker(_key_of(frames[0]), worker, header)
        except errors.PolicyError as error:
            self._refuse(self._backend, frames[:1], error, {})
            if isinstance(error, errors.Forbidden):
                self._do(WorkerUnreachable(worker), time.monotonic())
            return
        connection = frames[0].get(_SOURCE)
        if worker not in self._last_heard_on.get(connection, ()):
            self._last_heard_on.setdefault(connection, set()).add(worker)
        if header["kind"] == "hello":
            self._core.registry.offers_nearby = self._nearby.are_open
        self._do(WorkerMessage(worker, header, frames[2:]), time.monotonic())

    def _serve_robots_monitor(self) -> None:
        if self._robots.take().accepted:
            self._nearby.close_if_crowded()

    def _serve_workers_monitor(self) -> None:
        if (news := self._workers.take()).accepted:
            self._nearby.close_if_crowded()
        for descriptor in news.closed:
            # A file descriptor is soon reused, so this is no proof that all of them are gone.
            workers = self._last_heard_on.pop(descriptor, set())
            self._do(ConnectionLost(tuple(workers)), time.monotonic())

    def _serve_tap(self) -> None:
        if self._tap is not None:
            self._core.inflight.is_tapped = self._tap.take()

    def _do(self, event: Event, now: float) -> None:
        """Have the core process an event and all that follow from it; carry out its commands."""
        pending: list[Event] = [event]
        for each in pending:
            for command in self._core.handle(each, now):
                consequence = self._carry_out(command)
                if consequence is not None:
                    pending.append(consequence)

    def _carry_out(self, command: Command) -> Event | None:
        if isinstance(command, ToRobot):
            frames = [*command.envelope, encode_header(command.header), *command.payload]
            if not send_now(self._frontend, frames):
                self.counters["dropped: robot gone"] += 1
        elif isinstance(command, ToWorker):
            frames = [command.worker, encode_header(command.header), *command.payload]
            if not send_now(self._backend, frames):
                return WorkerUnreachable(command.worker)
        elif isinstance(command, Log):
            logger.log(command.level, command.text, extra={"about": command.about})
        elif isinstance(command, Tapped) and self._tap is not None:
            self._tap.publish(command)
        return None

    def _refuse(
        self,
        socket: Socket,
        envelope: Sequence[Frame],
        error: errors.PolicyError,
        request: Header,
    ) -> None:
        self.counters[f"refused: {error.code()}"] += 1
        header = error_header(request, error)
        if isinstance(error, errors.Forbidden):
            about = {"request": str(header["id"])} if "id" in header else {}
            logger.warning("refused a message: %s", error, extra={"about": about})
        send_now(socket, [*envelope, encode_header(header)])

    def _close(self) -> None:
        for monitor in (self._robots, self._workers):
            monitor.close()
        # The last answers may not have been sent yet.
        self._frontend.close(linger=1_000)
        self._backend.close(linger=0)
        if self._tap is not None:
            self._tap.close()  # the last answers are told there too
        self._context.destroy(linger=0)


def _key_of(frame: zmq.Frame) -> str:
    """The key that a message's sender connected with, as our ZAP handler named it."""
    return str(frame.get("User-Id"))
