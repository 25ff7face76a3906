"""The worker's way to one broker: a DEALER that reconnects by itself, and its monitor.

A broker's welcome names an address that only processes on its own host can reach. A worker there
goes on by it (`approach`), which costs less than TCP, with the same routing id: to the broker that
is a reconnection. When that connection ends it goes back to the address that it was given, since a
broker that starts again may do so on another host.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import zmq
from zmq.utils.monitor import parse_monitor_message

from client import errors
from client.connection import reconnect_soon
from client.keys import Key, key_refusal
from client.wire import TO_WORKER, Header, decode_header, encode_header, receive, send
from worker.events import Payload, Received

logger = logging.getLogger("worker")

_HANDSHAKE_FAILED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_WATCHED = _HANDSHAKE_FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
_LAST_WORDS_MS = 100  # at the end, for what was sent and is not on its way yet
_PATIENCE_S = 1.0  # for the first word at the nearer address
_ABSTRACT = "ipc://@"


class Connection:
    """A socket to the broker at one endpoint; not thread-safe."""

    def __init__(self, endpoint: str, incarnation: bytes, key: Key | None) -> None:
        """Open it; the broker need not be there yet.

        Raises:
            zmq.ZMQError: `endpoint` is no address.
        """
        self.endpoint = self._home = endpoint
        self._incarnation, self._key = incarnation, key
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
        """Whether it goes by an address that the broker named, and not by the given one."""
        return self.endpoint != self._home

    def received(self) -> Iterator[Received]:
        """All messages that are there; one that cannot be read is logged and left out."""
        while (frames := receive(self._socket)) is not None:
            self._patient_until = float("inf")
            if self._left is not None:
                self._left.close(linger=0)
                self._left = None
            try:
                yield Received(decode_header(frames[0], TO_WORKER), frames[1:])
            except errors.PolicyError as error:
                logger.error("the broker at %s sent what cannot be read: %s", self.endpoint, error)

    def send(self, header: Header, payload: Payload) -> bool:
        """Send now; False where there is no connection, or its queue is full."""
        try:
            send(self._socket, [encode_header(header), *payload])
        except zmq.Again:
            return False
        return True

    def approach(self, nearer: str, now: float) -> bool:
        """Go on by an address that the broker named, if it is to be found here.

        Nothing may be in hand. True if so; then nobody has said hello yet at the new address.
        """
        if not self._home.startswith("tcp://") or self.is_nearby or nearer == self._avoided:
            return False
        if not _is_here(nearer):
            return False
        left, monitor = self._socket, self._monitor
        self._open(nearer)
        left.disable_monitor()
        monitor.close(linger=0)
        self.endpoint, self._left, self._patient_until = nearer, left, now + _PATIENCE_S
        logger.info("the broker is on this host: going on by %s", nearer)
        return True

    def look(self, now: float) -> tuple[bool, str]:
        """Take in what the monitor saw.

        Returns:
            Whether a nearer address has just been reached, where hello is to be said; and why the
            broker will never let this worker in, empty as long as it may. A handshake that failed
            for another reason is tried again, which libzmq does not do.
        """
        arrived = False
        while (frames := receive(self._monitor)) is not None:
            news = parse_monitor_message([frame.bytes for frame in frames])
            event = news["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                arrived = self.is_nearby
            elif event == zmq.EVENT_DISCONNECTED:
                if self.is_nearby:
                    self._go_home()
                    return False, ""
            elif reason := key_refusal(event, news["value"], self._key):
                return False, reason
            else:
                logger.warning("%s answers, but not as a broker for us", self.endpoint)
                self._socket.connect(self.endpoint)
        if now > self._patient_until:
            self._avoided = self.endpoint
            self._go_home()
        return arrived, ""

    def close(self) -> None:
        """Close it, after a moment for what was sent last."""
        self._close_socket(_LAST_WORDS_MS)
        self._context.term()

    def _go_home(self) -> None:
        self._close_socket(0)
        self.endpoint, self._patient_until = self._home, float("inf")
        self._open(self._home)

    def _close_socket(self, linger_ms: int) -> None:
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=linger_ms)
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
        self._socket, self._monitor = socket, socket.get_monitor_socket(_WATCHED)
        # For a poller. Sending may consume the edge by which the first tells of a message.
        self.sockets = socket, self._monitor
        socket.connect(endpoint)


def _is_here(address: str) -> bool:
    """Whether somebody in this network namespace listens at an abstract address."""
    if not address.startswith(_ABSTRACT):
        return False
    try:
        table = Path("/proc/net/unix").read_text(errors="replace")
    except OSError:
        return False
    name = address.removeprefix("ipc://")
    return any(line.split()[-1:] == [name] for line in table.splitlines())
