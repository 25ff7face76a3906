"""The broker's two doors, for robots and for workers: sockets, limits and monitors."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from socket import AF_UNIX
from socket import socket as UnixSocket
from typing import NamedTuple

import zmq
from zmq.utils.monitor import parse_monitor_message

from broker.config import BrokerConfig, addresses
from broker.security import BACKEND, FRONTEND, Keyring
from client import errors
from client.wire import MAX_FRAMES, MAX_HEADER, MAX_METADATA, Frame, receive, send

Socket = zmq.Socket[bytes]

HANDSHAKE_MS = 3_000  # a connection whose handshake takes longer is closed
_BACKLOG = 1024
_KEPT = 16
_PROBE_S = 1.0
_MAX_HOPS = 8  # routers between a peer and us, each of which adds a frame to the envelope

# Not EVENT_ACCEPT_FAILED: when descriptors run out, libzmq reports it 100,000 times a second.
_EVENTS: dict[int, str] = {
    zmq.EVENT_ACCEPTED: "accepted",
    zmq.EVENT_DISCONNECTED: "closed",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "handshake unfinished",  # too slow, closed, or no key
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "handshake wrong",  # not ZeroMQ, or another broker's key
}


class CannotBind(Exception):
    """An address that this process cannot listen at; the message says what to do about it."""


def open_frontend(
    context: zmq.Context[Socket], config: BrokerConfig, keyring: Keyring | None
) -> Socket:
    """Bind the robots' door.

    Raises:
        CannotBind: the address is in use, or is not one of this machine's.
    """
    return _open(
        context,
        name=FRONTEND,
        setting=config.frontend,
        max_bytes=config.limits.max_bytes,
        keyring=keyring,
        heartbeat_ms=15_000,
        timeout_ms=60_000,
        # Few, so that a peer that floods fills its TCP buffers and not our memory. But not two:
        # libzmq would wake its I/O thread for each message (measured: 6 context switches).
        received_ahead=8,
        # For a robot that does not read its answers. One that sends observations faster than
        # they are computed gets several answers at once, as the older ones are superseded.
        kept_to_send=max(_KEPT, config.limits.max_requests_per_robot),
    )


def open_backend(
    context: zmq.Context[Socket], config: BrokerConfig, keyring: Keyring | None
) -> Socket:
    """Bind the workers' door.

    Raises:
        CannotBind: the address is in use, or is not one of this machine's.
    """
    socket = _open(
        context,
        name=BACKEND,
        setting=config.backend,
        max_bytes=max(config.limits.max_bytes, MAX_METADATA),
        keyring=keyring,
        heartbeat_ms=1_000,
        timeout_ms=3_000,
        received_ahead=1_000,
        kept_to_send=1_000,
    )
    # Each incarnation of a worker has its own routing id. When an id connects again, that worker
    # has lost its old connection, which we would take seconds to notice.
    socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
    return socket


def _open(
    context: zmq.Context[Socket],
    *,
    name: str,
    setting: str,
    max_bytes: int,
    keyring: Keyring | None,
    heartbeat_ms: int,
    timeout_ms: int,
    received_ahead: int,
    kept_to_send: int,
) -> Socket:
    """Bind a door; `received_ahead` and `kept_to_send` are numbers of messages, for each peer."""
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.RCVHWM, received_ahead)
    socket.setsockopt(zmq.SNDHWM, kept_to_send)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.BACKLOG, _BACKLOG)
    # A peer refuses with a reason to send more than it may; twice that is where we hang up.
    socket.setsockopt(zmq.MAXMSGSIZE, 2 * max_bytes)
    socket.setsockopt(zmq.HEARTBEAT_IVL, heartbeat_ms)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, timeout_ms)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    if keyring is not None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, keyring.public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, keyring.secret)
        socket.setsockopt(zmq.ZAP_DOMAIN, name.encode("ascii"))
    bind(socket, name, setting)
    return socket


def bind(socket: Socket, name: str, setting: str) -> None:
    """Bind a socket to all addresses of a setting, or close it; `name` is the setting's.

    Raises:
        CannotBind: an address is in use, or is not one of this machine's.
    """
    for endpoint in addresses(setting):
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        try:
            _check_path(endpoint)
            socket.bind(endpoint)
        except (OSError, zmq.ZMQError) as error:
            socket.close()
            raise CannotBind(_reason(name, endpoint, error.errno, str(error))) from error


def _check_path(endpoint: str) -> None:
    """Refuse a path that another process listens at, or a file: libzmq would replace both.

    Raises:
        OSError: what is there must stay; its `errno` says why.
    """
    scheme, _, path = endpoint.partition("://")
    if scheme != "ipc" or not Path(path).exists():
        return
    if not Path(path).is_socket():
        raise OSError(errno.EEXIST, "no socket")
    with UnixSocket(AF_UNIX) as probe:
        probe.settimeout(_PROBE_S)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return  # a process that was killed has left it behind
    raise OSError(errno.EADDRINUSE, "in use")


def _reason(name: str, endpoint: str, number: int | None, otherwise: str) -> str:
    """Why a door cannot be bound, and what to do; a door has the name of its setting."""
    port = endpoint.rpartition(":")[2]
    advice = {
        errno.EADDRINUSE: "it is in use. Is another broker running there? Stop that one, or "
        f"choose another address with {name}=...",
        errno.EADDRNOTAVAIL: "this machine has no such address. Bind to one of its own, or to all "
        f"of them with {name}=tcp://0.0.0.0:{port}",
        errno.ENODEV: "this machine has no address or network interface of that name. Bind to one "
        f"of its own, or to all of them with {name}=tcp://0.0.0.0:{port}",
        errno.EEXIST: "a file of that name is there, and it is no socket. Choose another path",
        errno.EACCES: "it is not allowed. Choose a port from 1024 on, or a folder that may be "
        "written to",
        errno.ENOENT: "its folder does not exist. Make it first",
    }
    return f"cannot bind {name}={endpoint}: {advice.get(number or 0, otherwise)}"


def check_frames(envelope: Sequence[Frame], message: Sequence[Frame]) -> None:
    """Check the number and the sizes of a message's frames, before any of them is decoded.

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


def send_now(socket: Socket, frames: Sequence[Frame]) -> bool:
    """Send without waiting; False if nobody has that routing id, or its queue is full."""
    try:
        send(socket, frames)
    except zmq.Again:
        return False
    except zmq.ZMQError as error:
        if error.errno != zmq.EHOSTUNREACH:
            raise
        return False
    return True


def worker_at_wrong_door(config: BrokerConfig) -> errors.WorkerRefused:
    """What a worker is told that has connected to the robots' port."""
    return errors.WorkerRefused(
        f"this port is for robots: workers connect to the broker's backend, {config.backend} here"
    )


def robot_at_wrong_door(config: BrokerConfig) -> errors.ProtocolError:
    """What a robot is told that has connected to the workers' port."""
    return errors.ProtocolError(
        f"this port is for workers: robots connect to the broker's frontend, {config.frontend} here"
    )


class News(NamedTuple):
    """What has happened at a door."""

    accepted: bool  # were connections?
    closed: list[int]  # file descriptors of connections that were


class Monitor:
    """Counts the connections that a door accepts, refuses and loses."""

    def __init__(self, door: Socket, name: str, counters: Counter[str]) -> None:
        self._door, self._name, self._counters = door, name, counters
        self.socket: Socket = door.get_monitor_socket(sum(_EVENTS))

    def take(self) -> News:
        """Count the events so far."""
        accepted, closed = False, []
        while (frames := receive(self.socket)) is not None:
            event = parse_monitor_message([frame.bytes for frame in frames])
            self._counters[f"{self._name} {_EVENTS[event['event']]}"] += 1
            accepted = accepted or event["event"] == zmq.EVENT_ACCEPTED
            if event["event"] == zmq.EVENT_DISCONNECTED:
                closed.append(event["value"])
        return News(accepted, closed)

    def close(self) -> None:
        """Stop watching. Must be called before the door itself is closed."""
        self._door.disable_monitor()
        self.socket.close(linger=0)
