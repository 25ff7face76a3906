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
# The fourth field of a listener's line in /proc/net/unix; its connections have its name too. Names
# may hold anything, even line ends, so no line can be relied on to have its fields.
_FLAGS, _LISTENS = slice(3, 4), ["00010000"]
_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group (unix(7), SO_PEERCRED)


class Way:
    """Where to connect to a broker: at the endpoint that was given, or beside it."""

    def __init__(self, endpoint: str, may_be_beside: bool) -> None:
        """`endpoint`: of the broker, as ZeroMQ has it."""
        self._endpoint = endpoint
        self._beside = beside(endpoint) if may_be_beside else ""
        self.is_beside = False
        """Whether that is where the socket connects to that was opened last."""
        self._was_refused = False  # beside: by nobody who listens, or a stranger
        self._stays = False  # at the endpoint, as it was refused beside just before

    def choose(self) -> str:
        """Where to connect a new socket."""
        self._stays, self._was_refused = self._was_refused, False
        self.is_beside = not self._stays and is_heard(self._beside)
        return self._beside if self.is_beside else self._endpoint

    def is_worse(self, event: int, value: int) -> bool:
        """Whether an event of the socket's monitor shows that the other way is the better one.

        True only before a first message can have been sent; then `choose` names the other one.
        """
        if self.is_beside:
            is_strange = event == zmq.EVENT_CONNECTED and not is_trusted(value)
            self._was_refused = is_strange or event == zmq.EVENT_CLOSED
            return self._was_refused
        # It may have been found before it listened beside.
        is_connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        return is_connected and not self._stays and is_heard(self._beside)


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
    name = address[len("ipc://") :]
    try:
        with open("/proc/net/unix", encoding="utf-8", errors="replace") as table:
            rows = [line.split() for line in table if name in line]
    except OSError:  # not Linux
        return False
    return any(row[-1:] == [name] and row[_FLAGS] == _LISTENS for row in rows)


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
