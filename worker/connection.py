"""The worker's socket to one broker: a DEALER that reconnects by itself, and its monitor."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import zmq
from zmq.utils.monitor import parse_monitor_message

from client import errors
from client.connection import reconnect_soon
from client.keys import Key, verdict
from client.wire import TO_WORKER, Header, decode_header, encode_header, receive, send
from worker.events import Payload, Received

logger = logging.getLogger("worker")

_HANDSHAKE_FAILED = zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_LAST_WORDS_MS = 100  # at the end, for what was sent and is not on its way yet


class Connection:
    """A socket to the broker at one endpoint; not thread-safe."""

    def __init__(self, endpoint: str, incarnation: bytes, key: Key | None) -> None:
        """Open it; the broker need not be there yet.

        Raises:
            zmq.ZMQError: `endpoint` is no address.
        """
        self.endpoint = endpoint
        self._key = key
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._open(incarnation)
        self._monitor = self._socket.get_monitor_socket(_HANDSHAKE_FAILED)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError:
            self._context.destroy(linger=0)
            raise

    @property
    def socket(self) -> zmq.Socket[bytes]:
        """For a poller. Sending may consume the edge by which it tells of a message."""
        return self._socket

    def received(self) -> Iterator[Received]:
        """All messages that are there; one that cannot be read is logged and left out."""
        while (frames := receive(self._socket)) is not None:
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

    def refusal(self) -> str:
        """Why the broker will never let this worker in; empty as long as it may.

        A handshake that failed for another reason is tried again, which libzmq does not do.
        """
        while (frames := receive(self._monitor)) is not None:
            event = parse_monitor_message([frame.bytes for frame in frames])
            reason = verdict(event["event"], event["value"], self._key)
            if reason:
                return reason
            logger.warning("%s answers, but not as a broker for us", self.endpoint)
            self._socket.connect(self.endpoint)
        return ""

    def close(self) -> None:
        """Close it, after a moment for what was sent last."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=_LAST_WORDS_MS)
        self._context.term()

    def _open(self, incarnation: bytes) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        # Another identity for every incarnation: what was meant for an old one never arrives.
        socket.setsockopt(zmq.ROUTING_ID, b"w" + incarnation)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.LINGER, 0)
        reconnect_soon(socket)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 1_000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 3_000)
        socket.setsockopt(zmq.IPV6, int("[" in self.endpoint))
        if self._key is not None:
            self._key.secure(socket)
        return socket
