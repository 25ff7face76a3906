"""The broker's two doors: their sockets, their keys, who is let in, and a count of who was not.

With keys, libzmq asks about every newcomer by ZAP (ZeroMQ RFC 27) before it lets one in. The
answer is given by the broker's own thread, between messages.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

from broker.config import BrokerConfig, addresses, nearby_address
from broker.security import BACKEND, FRONTEND, Guard, Keyring, read_keys
from client import errors
from client.wire import MAX_FRAMES, MAX_HEADER, Frame, receive

logger = logging.getLogger("broker")

Socket = zmq.Socket[bytes]

HANDSHAKE_MS = 3_000  # a newcomer that has not said who it is by then is cut off
_BACKLOG = 1024
_KEPT = 16
_MAX_HOPS = 8  # routers between a peer and us, each of which adds a frame to the envelope
_ZAP_ADDRESS = "inproc://zeromq.zap.01"

# Not EVENT_ACCEPT_FAILED: out of descriptors, libzmq reports it 100,000 times a second.
_EVENTS: dict[int, str] = {
    zmq.EVENT_ACCEPTED: "accepted",
    zmq.EVENT_DISCONNECTED: "closed",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "handshake unfinished",  # too slow, cut off, or no key
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "handshake wrong",  # no ZeroMQ, or for another broker
}


def open_frontend(
    context: zmq.Context[Socket], config: BrokerConfig, keys: Keyring | None
) -> Socket:
    """Bind the robots' door.

    Raises:
        zmq.ZMQError: the address cannot be bound.
    """
    # A peer that floods fills its own TCP buffers, not our memory: few messages are taken ahead.
    # With two, libzmq wakes its I/O thread for every message received (measured: 6 switches).
    # Answers kept for a robot that doesn't read them. One that sends newer observations faster
    # than they are computed gets several at once, to say that they were superseded.
    kept = max(_KEPT, config.limits.max_requests_per_robot)
    return _open(context, config, config.frontend, 15_000, 60_000, 8, kept, FRONTEND, keys)


def open_backend(
    context: zmq.Context[Socket], config: BrokerConfig, keys: Keyring | None, epoch: int
) -> Socket:
    """Bind the workers' door, and a nearer one for those on this host.

    Raises:
        zmq.ZMQError: the address cannot be bound.
    """
    socket = _open(context, config, config.backend, 1_000, 3_000, 1_000, 1_000, BACKEND, keys)
    # A routing id is one worker's incarnation. When it comes again, that worker has a new
    # connection and knows that the old one is cut, which we would take seconds to notice.
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    try:
        socket.bind(nearby_address(epoch))
    except zmq.ZMQError as error:  # not Linux: then all go the usual way
        logger.info("workers on this host connect as all others do: %s", error)
    return socket


def _open(
    context: zmq.Context[Socket],
    config: BrokerConfig,
    setting: str,
    heartbeat_ms: int,
    timeout_ms: int,
    ahead: int,
    kept: int,
    name: str,
    keys: Keyring | None,
) -> Socket:
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.RCVHWM, ahead)
    socket.setsockopt(zmq.SNDHWM, kept)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.BACKLOG, _BACKLOG)
    # The client refuses at max_bytes with a reason; twice that is where we hang up.
    socket.setsockopt(zmq.MAXMSGSIZE, 2 * config.limits.max_bytes)
    socket.setsockopt(zmq.HEARTBEAT_IVL, heartbeat_ms)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, timeout_ms)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    if keys is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, name.encode("ascii"))
    for endpoint in addresses(setting):
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        _check_is_free(endpoint)
        socket.bind(endpoint)
    return socket


def _check_is_free(endpoint: str) -> None:
    """Refuse a path that somebody listens on: libzmq would take it away from a living broker.

    A socket file that was left behind by a killed one has no listener, and is replaced.
    """
    path = endpoint.removeprefix("ipc://")
    if path == endpoint or path.startswith("@"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(path) == 0:
            raise zmq.ZMQError(errno.EADDRINUSE)


def check_frames(envelope: Sequence[Frame], message: Sequence[Frame]) -> None:
    """Check counts and sizes of what came, before any of it is read.

    Args:
        envelope: a robot's routing id, those of routers on the way and the empty frame; a
            worker's routing id alone.
        message: header, body and buffers.

    Raises:
        ProtocolError: there are too many frames, or the header is missing or too large.
    """
    if not message:
        raise errors.ProtocolError("the message is empty: [header, body, buffers...] is expected")
    if len(envelope) > _MAX_HOPS + 2:
        raise errors.ProtocolError(
            f"the return envelope has {len(envelope) - 2} frames before the empty one: "
            f"at most {_MAX_HOPS} are allowed"
        )
    if len(message) > MAX_FRAMES:
        raise errors.ProtocolError(f"{len(message)} frames: at most {MAX_FRAMES} are allowed")
    if len(message[0]) > MAX_HEADER:
        raise errors.ProtocolError(
            f"header of {len(message[0])} bytes: at most {MAX_HEADER} are allowed"
        )


class KeyFolder:
    """The folder of keys, read at the start and whenever an operator asks for it."""

    def __init__(self, folder: Path) -> None:
        """Read it.

        Raises:
            ValueError: the keys cannot be read; the message names the file.
        """
        self._folder = folder
        self.keyring = read_keys(folder)  # as it was at the start
        self.guard = Guard(self.keyring)

    def read_again(self) -> None:
        """Believe what is in the folder now, if it can be read, and log what came of it."""
        try:
            keyring = read_keys(self._folder)
        except ValueError as error:
            logger.error("the old keys stay, the new ones cannot be read: %s", error)
            return
        if keyring.public != self.keyring.public:
            logger.warning(
                "the broker's own key was made anew: it holds from the next start on, and until "
                "then peers whose key files name the new one cannot come in"
            )
        self.guard.reload(keyring)
        logger.info("read the keys again: %d peers may come in", len(keyring.peers))


class Monitor:
    """Counts what happens at a door; tells which connections closed."""

    def __init__(self, door: Socket, name: str, counters: Counter[str]) -> None:
        self._door, self._name, self._counters = door, name, counters
        self.socket: Socket = door.get_monitor_socket(sum(_EVENTS))

    def take(self) -> list[int]:
        """Take in the news; returns the file descriptors of connections that closed."""
        closed = []
        while (frames := receive(self.socket)) is not None:
            event = parse_monitor_message([frame.bytes for frame in frames])
            self._counters[f"{self._name} {_EVENTS[event['event']]}"] += 1
            if event["event"] == zmq.EVENT_DISCONNECTED:
                closed.append(event["value"])
        return closed

    def close(self) -> None:
        """Stop watching; before the door itself is closed."""
        self._door.disable_monitor()
        self.socket.close(linger=0)


class Zap:
    """Answers libzmq's question whether a key may come in."""

    def __init__(self, context: zmq.Context[Socket], guard: Guard, counters: Counter[str]) -> None:
        """Bind, which must come before the doors: without this, any key is let in."""
        self._guard, self._counters = guard, counters
        self.socket: Socket = context.socket(zmq.REP)
        self.socket.bind(_ZAP_ADDRESS)

    def serve(self) -> None:
        """Answer all who wait at the doors."""
        while (frames := receive(self.socket)) is not None:
            version, request, domain, address, _, mechanism, *credentials = (
                frame.bytes for frame in frames
            )
            door, key, reason = domain.decode(), "", "no key"
            if mechanism == b"CURVE" and len(credentials) == 1:
                key = z85.encode(credentials[0]).decode("ascii")
                reason = self._guard.refusal(door, key)
            if reason:
                self._counters[f"{door} refused: {reason}"] += 1
                logger.warning("refused a peer from %s: %s", address.decode(), reason)
            status = [b"400", b"refused", b""] if reason else [b"200", b"", key.encode("ascii")]
            self.socket.send_multipart([version, request, *status, b""])
