"""The worker's way to one broker: a DEALER that reconnects by itself, and its monitor.

A broker's welcome names an address that only processes on its own host can reach. A worker on that
host switches to it (`approach`), since it costs less than TCP, and keeps its routing id: to the
broker that is a reconnection. When that connection ends, the worker goes back to the address that
it was given, since a restarted broker may be on another host.
"""

from __future__ import annotations

import contextlib
import logging
import uuid
from collections.abc import Iterator
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from client import errors
from client.connection import reconnect_soon
from client.keys import Key, key_refusal
from client.nearby import is_heard
from client.peer import RECONNECT_MAX_MS, RECONNECT_MS
from client.wire import TO_WORKER, Header, decode_header, encode_header, receive, send, take
from worker.events import Payload, Received

logger = logging.getLogger("worker")

Watched = list[tuple[Any, int]]
"""What `zmq.zmq_poll` takes: sockets or descriptors, and for what each is watched."""

_HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL  # it hung up
)
_WATCHED = _HANDSHAKE_FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
_LAST_WORDS_MS = 100  # at the end, for messages that have not left yet
_FOREIGN_AFTER = 3  # failed handshakes in a row: a broker that is killed may cause one
_PATIENCE_S = 1.0  # for the first word at the nearer address
_READABLE = int(zmq.POLLIN)


class Connection:
    """A socket to the broker at one endpoint; not thread-safe."""

    def __init__(
        self, endpoint: str, incarnation: bytes, key: Key | None, *, is_only: bool = True
    ) -> None:
        """Open it; the broker need not be there yet.

        With `is_only` no loss is told of: the routing id stays, and the connection is made again.

        Raises:
            zmq.ZMQError: `endpoint` is no address.
        """
        self.endpoint = self._home = endpoint
        self._incarnation, self._key, self._is_only = incarnation, key, is_only
        self._failures = 0  # handshakes in a row
        self._again_at = float("inf")  # when to try again whoever failed the last one
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._left: zmq.Socket[bytes] | None = None  # kept until the nearer one has proved itself
        self._avoided = ""  # a nearer address that led nowhere
        self._patient_until = float("inf")
        try:
            self._open(endpoint)
        except zmq.ZMQError:
            self._context.destroy(linger=0)
            raise

    @property
    def is_nearby(self) -> bool:
        """Whether it uses the address that the broker named, and not the given one."""
        return self.endpoint != self._home

    def received(self, most: int) -> Iterator[Received]:
        """Up to `most` of the messages that are there, once `socket` was seen to be readable.

        One that cannot be read is logged and left out.
        """
        frames = take(self.socket)
        while frames is not None:
            self._patient_until = float("inf")
            if self._left is not None:
                self._left.close(linger=0)
                self._left = None
            try:
                yield Received(decode_header(frames[0], TO_WORKER), frames[1:])
            except errors.PolicyError as error:
                logger.error("an unreadable message of the broker at %s: %s", self.endpoint, error)
            most -= 1
            frames = receive(self.socket) if most > 0 else None

    def send(self, header: Header, payload: Payload) -> bool:
        """Send now; False where there is no connection, or its queue is full."""
        try:
            send(self.socket, [encode_header(header), *payload])
        except zmq.Again:
            return False
        return True

    def approach(self, nearer: str, now: float) -> bool:
        """Switch to an address that the broker named, if it is on this host.

        No request may be in hand. True if it has switched; then hello is to be said there.
        """
        if not self._home.startswith("tcp://") or self.is_nearby or nearer == self._avoided:
            return False
        if not is_heard(nearer):
            return False
        left, monitor = self.socket, self._monitor
        self._open(nearer)
        left.disable_monitor()
        monitor.close(linger=0)
        self.endpoint, self._left, self._patient_until = nearer, left, now + _PATIENCE_S
        logger.info("the broker is on this host: switching to %s", nearer)
        return True

    def renew(self) -> None:
        """Close it for good and open another, under a routing id that nobody has had."""
        self._incarnation = uuid.uuid4().bytes
        self._go_home()

    def look(self, now: float) -> tuple[bool, bool, str]:
        """Take in what the monitor saw.

        Returns:
            Whether a broker has just been reached to which hello is to be said; whether it was
            lost, where there are others; and the reason why the broker will never let this worker
            in, empty while it may. After any other failed handshake the connection is tried again
            by a later call: after some libzmq would not, and after others always as soon as after
            the first, since the peer did accept.
        """
        arrived = lost = failed = False
        while (frames := receive(self._monitor)) is not None:
            news = parse_monitor_message([frame.bytes for frame in frames])
            event = news["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                arrived, failed, self._failures = self.is_nearby or not self._is_only, False, 0
            elif event == zmq.EVENT_DISCONNECTED:
                if self.is_nearby:
                    self._go_home()
                    return False, not self._is_only, ""
                lost = not self._is_only
            elif reason := key_refusal(event, news["value"], self._key):
                return False, False, reason
            else:
                failed = True
        if failed:
            self._leave_alone(now)
        elif now >= self._again_at:
            self._again_at = float("inf")
            self.socket.connect(self.endpoint)
        if now > self._patient_until:
            self._avoided = self.endpoint
            self._go_home()
        return arrived, lost, ""

    def close(self) -> None:
        """Close it, after a moment for what was sent last."""
        self._close_socket(_LAST_WORDS_MS)
        self._context.term()

    def _leave_alone(self, now: float) -> None:
        """Have the peer that failed a handshake tried again later, longer each time."""
        pause_ms = min(RECONNECT_MS << min(self._failures, 10), RECONNECT_MAX_MS)
        self._failures += 1
        self._again_at = now + pause_ms / 1e3
        with contextlib.suppress(zmq.ZMQError):  # libzmq has given it up itself
            self.socket.disconnect(self.endpoint)
        if self._failures == _FOREIGN_AFTER:
            logger.warning(
                "%s answers, but not as a broker for us: is it the broker's `backend`, 8001 by "
                "default, and is a key needed (key=FILE)?",
                self.endpoint,
            )

    def _go_home(self) -> None:
        self._close_socket(0)
        self.endpoint, self._patient_until = self._home, float("inf")
        self._open(self._home)

    def _close_socket(self, linger_ms: int) -> None:
        self.socket.disable_monitor()
        self._monitor.close(linger=0)
        self.socket.close(linger=linger_ms)
        if self._left is not None:
            self._left.close(linger=0)
            self._left = None

    def _open(self, endpoint: str) -> None:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        # Another identity for every incarnation: what was meant for an old one never arrives.
        socket.setsockopt(zmq.ROUTING_ID, b"w" + self._incarnation)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.LINGER, 0)
        reconnect_soon(socket)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 1_000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3_000)
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        if self._key is not None:
            self._key.secure(socket)
        self._again_at = float("inf")
        self.socket, self._monitor = socket, socket.get_monitor_socket(_WATCHED)
        # A monitor's descriptor is enough: it is read until it is empty, and only here.
        self.watched: Watched = [(socket, _READABLE), (self._monitor.fileno(), _READABLE)]
        socket.connect(endpoint)
