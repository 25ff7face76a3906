"""The Unix socket that a broker has beside its TCP port, for robots and workers on its own host.

It costs less than TCP does there, but for large messages. Its name is an abstract one: it lies in
the network namespace, as loopback does, and in no file system, and ends with the broker's process.
"""

from __future__ import annotations

import os
import socket as sockets
import struct

import zmq

_ABSTRACT = "ipc://@"
_BESIDE = _ABSTRACT + "zmq-policy-broker-port-"
_REACHED_BY_LOOPBACK = ("127.0.0.1", "localhost", "0.0.0.0", "*")
_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group (unix(7), SO_PEERCRED)


class Way:
    """Where to connect to a broker: at the endpoint that was given, or beside it."""

    def __init__(self, endpoint: str, may_be_beside: bool) -> None:
        """`endpoint`: of the broker, as ZeroMQ has it."""
        self._endpoint = endpoint
        self._beside = beside(endpoint) if may_be_beside else ""
        self._is_beside = False

    def choose(self) -> str:
        """Where to connect now."""
        self._is_beside = is_heard(self._beside)
        return self._beside if self._is_beside else self._endpoint

    def is_worse(self, event: int, value: int) -> bool:
        """Whether an event of the socket's monitor shows that the other way is the better one.

        True only before a first message can have been sent; then `choose` names the other one.
        """
        if not self._beside:
            return False
        if not self._is_beside:  # it may have been found before it listened there
            return event == zmq.EVENT_HANDSHAKE_SUCCEEDED and is_heard(self._beside)
        if event == zmq.EVENT_CONNECTED and not is_trusted(value):
            self._beside = ""
            return True
        return event == zmq.EVENT_CLOSED and not is_heard(self._beside)  # it has stopped listening


def beside(endpoint: str) -> str:
    """The name of the Unix socket beside a TCP port that IPv4's loopback reaches, else ''."""
    scheme, _, address = endpoint.partition("://")
    host, _, port = address.rpartition(":")
    is_here = scheme == "tcp" and host in _REACHED_BY_LOOPBACK and port.isdigit()
    return f"{_BESIDE}{int(port)}" if is_here else ""


def is_heard(address: str) -> bool:
    """Whether somebody in this network namespace listens at an abstract address."""
    if not address.startswith(_ABSTRACT):
        return False
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as table:
            name = address[len("ipc://") :]
            return any(line.split()[-1:] == [name] for line in table)
    except OSError:  # not Linux
        return False


def is_trusted(descriptor: int) -> bool:
    """Whether whoever is at the other end of this Unix socket is of our user, or root.

    Any program of the host can listen at an abstract name before the broker does.
    """
    try:
        with _borrowed(descriptor) as ours:
            found = ours.getsockopt(sockets.SOL_SOCKET, sockets.SO_PEERCRED, _CREDENTIALS.size)
    except OSError:  # it is closed by now
        return False
    user: int = _CREDENTIALS.unpack(found)[1]
    return user in (0, os.getuid())


def _borrowed(descriptor: int) -> sockets.socket:
    """A socket of libzmq's, to be closed without closing it there.

    Raises:
        OSError: it is closed by now, or something else has its descriptor.
    """
    copy = os.dup(descriptor)
    try:
        return sockets.socket(fileno=copy)
    except OSError:
        os.close(copy)
        raise
