"""The sockets around the core: takes messages in, carries commands out, and owns the clock.

One thread. Payload frames go from one socket to the other as the objects that were received,
so libzmq passes a reference and nobody copies an image.
"""

from __future__ import annotations

import logging
import secrets
import select
import time
from collections import Counter
from collections.abc import Sequence

import zmq
from zmq.utils.monitor import parse_monitor_message

from broker.config import BrokerConfig
from broker.core import Core
from broker.events import (
    Command,
    ConnectionLost,
    Event,
    Log,
    RobotMessage,
    Stop,
    Tick,
    ToRobot,
    ToWorker,
    WorkerMessage,
    WorkerUnreachable,
)
from client import errors
from client.wire import (
    FROM_CLIENT,
    FROM_WORKER,
    MAX_FRAMES,
    MAX_HEADER,
    VERSION,
    Frame,
    decode_header,
    encode_header,
    receive,
    split_envelope,
)

logger = logging.getLogger("broker")

_BATCH = 32  # messages taken from one socket before the other gets its turn
_MAX_ENVELOPE = 8  # routing frames before the empty one
_BACKLOG = 1024

Socket = zmq.Socket[bytes]


class Shell:
    """Binds both ports and runs the core over them until stopped."""

    def __init__(self, config: BrokerConfig) -> None:
        """Bind.

        Raises:
            zmq.ZMQError: an address that cannot be bound.
        """
        self._config = config
        self._context: zmq.Context[Socket] = zmq.Context()
        self.counters: Counter[str] = Counter()
        try:
            # A peer that floods fills its own TCP buffers, not our memory.
            self._frontend = self._bind(config.frontend, 15_000, 60_000, backlog=2)
            self._backend = self._bind(config.backend, 1_000, 3_000, backlog=1000)
        except zmq.ZMQError:
            self._context.destroy(linger=0)
            raise
        self._monitor: Socket = self._backend.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._core = Core(config, secrets.randbits(62), time.monotonic())
        self._last_heard_on: dict[int, set[bytes]] = {}  # backend fd: workers
        self._stopping = False
        self._serve = {
            self._frontend: self._serve_frontend,
            self._backend: self._serve_backend,
            self._monitor: self._serve_monitor,
        }
        # Sockets that may hold a message. Their descriptors are edge-triggered and sending may
        # consume an edge, so one that was sent on is looked at before the next wait.
        self._to_read = set(self._serve)
        self._poller = select.poll()
        self._by_descriptor = {socket.fileno(): socket for socket in self._serve}
        for descriptor in self._by_descriptor:
            self._poller.register(descriptor, select.POLLIN)

    def run(self) -> None:
        """Serve until `stop`; then until what workers have in hand is answered."""
        told, until = False, float("inf")
        while True:
            while self._to_read:
                socket = self._to_read.pop()
                self._serve[socket]()
            now = time.monotonic()
            if self._stopping and not told:
                told, until = True, now + self._config.timers.drain_ms / 1e3
                self._do(Stop(), now)
            if told and (now >= until or not self._core.in_hand):
                break
            wake_at = min(self._core.wake_at(), until)
            if wake_at <= now:
                self._do(Tick(), now)
            elif not self._to_read:
                self._wait((wake_at - now) * 1e3 + 0.5)
        self._close()

    def stop(self) -> None:
        """Have `run` finish; may be called from a signal handler."""
        self._stopping = True

    def _wait(self, milliseconds: float) -> None:
        for descriptor, _ in self._poller.poll(milliseconds):
            self._to_read.add(self._by_descriptor[descriptor])

    def _serve_frontend(self) -> None:
        for _ in range(_BATCH):
            frames = receive(self._frontend)
            if frames is None:
                return
            try:
                envelope, message = split_envelope(frames)
            except errors.ProtocolError:
                self.counters["garbage without an envelope"] += 1
                continue  # nobody to answer: the sender is no REQ, and may be anything
            try:
                _check_frames(envelope, message)
                header = decode_header(message[0], FROM_CLIENT)
            except errors.PolicyError as error:
                self._refuse(self._frontend, envelope, error)
                continue
            event = RobotMessage(envelope[0].bytes, envelope, header, message[1:])
            self._do(event, time.monotonic())
        self._to_read.add(self._frontend)

    def _serve_backend(self) -> None:
        for _ in range(_BATCH):
            frames = receive(self._backend)
            if frames is None:
                return
            worker = frames[0].bytes
            if len(frames) > 2 and len(frames[1]) == 0:
                error = errors.ProtocolError(
                    "this port is for workers: robots connect to the broker's frontend, "
                    f"{self._config.frontend} here"
                )
                self._refuse(self._backend, frames[:2], error)
                continue
            try:
                _check_frames(frames[:1], frames[1:])
                header = decode_header(frames[1], FROM_WORKER)
            except errors.PolicyError as error:
                self._refuse(self._backend, frames[:1], error)
                continue
            self._last_heard_on.setdefault(frames[0].get(zmq.SRCFD), set()).add(worker)
            self._do(WorkerMessage(worker, header, frames[2:]), time.monotonic())
        self._to_read.add(self._backend)

    def _serve_monitor(self) -> None:
        while (frames := receive(self._monitor)) is not None:
            event = parse_monitor_message([frame.bytes for frame in frames])
            # A file descriptor is soon reused, so this is a hint: ask all that were heard on it.
            workers = self._last_heard_on.pop(event["value"], set())
            self._do(ConnectionLost(tuple(workers)), time.monotonic())

    def _do(self, event: Event, now: float) -> None:
        """Tell the core, and carry out what it asks for, until nothing follows from it."""
        pending: list[Event] = [event]
        for each in pending:
            for command in self._core.handle(each, now):
                consequence = self._carry_out(command)
                if consequence is not None:
                    pending.append(consequence)

    def _carry_out(self, command: Command) -> Event | None:
        if isinstance(command, ToRobot):
            frames = [*command.envelope, encode_header(command.header), *command.payload]
            if not self._send(self._frontend, frames):
                self.counters["dropped: robot gone"] += 1
        elif isinstance(command, ToWorker):
            frames = [command.worker, encode_header(command.header), *command.payload]
            if not self._send(self._backend, frames):
                return WorkerUnreachable(command.worker)
        elif isinstance(command, Log):
            logger.log(command.level, command.text)
        return None

    def _refuse(self, socket: Socket, envelope: Sequence[Frame], error: errors.PolicyError) -> None:
        self.counters[f"refused: {error.code()}"] += 1
        header = {"v": VERSION, "kind": "error", **errors.to_wire(error)}
        self._send(socket, [*envelope, encode_header(header)])

    def _send(self, socket: Socket, frames: Sequence[Frame]) -> bool:
        """Send without waiting; False if nobody has that routing id, or its queue is full."""
        self._to_read.add(socket)
        try:
            socket.send_multipart(frames, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        return True

    def _bind(self, endpoint: str, heartbeat_ms: int, timeout_ms: int, backlog: int) -> Socket:
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.RCVHWM, backlog)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.BACKLOG, _BACKLOG)
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        # The client refuses at max_bytes with a reason; twice that is where we hang up.
        socket.setsockopt(zmq.MAXMSGSIZE, 2 * self._config.limits.max_bytes)
        socket.setsockopt(zmq.HEARTBEAT_IVL, heartbeat_ms)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, timeout_ms)
        socket.bind(endpoint)
        return socket

    def _close(self) -> None:
        self._backend.disable_monitor()
        self._monitor.close(linger=0)
        # Last answers may still be on their way out.
        self._frontend.close(linger=200)
        self._backend.close(linger=0)
        self._context.term()


def _check_frames(envelope: Sequence[Frame], message: Sequence[Frame]) -> None:
    if not message:
        raise errors.ProtocolError("the message is empty: [header, body, buffers...] is expected")
    if len(envelope) > _MAX_ENVELOPE + 2 or len(message) > MAX_FRAMES:
        raise errors.ProtocolError(f"{len(message)} frames: at most {MAX_FRAMES} are allowed")
    if len(message[0]) > MAX_HEADER:
        raise errors.ProtocolError(f"header of {len(message[0])} bytes: {MAX_HEADER} are allowed")
