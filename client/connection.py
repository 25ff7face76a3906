"""The robot's one socket: a REQ, used as the "lazy pirate" pattern of the ZeroMQ guide says.

A REQ socket that lost its peer, or whose answer was given up, can never be trusted again: it is
closed and a new one opened, so no answer to an older request can arrive. The socket's monitor
reports a lost connection within milliseconds, so no timer is needed to notice it. `interrupt`
ends any waiting, from another thread or from a signal handler in this one.
"""

from __future__ import annotations

import contextlib
import socket as sockets
import time
from typing import Any, Sequence

import zmq
from zmq.utils.monitor import parse_monitor_message

from client.contexts import CONTEXTS
from client.errors import BrokerUnreachable, PolicyError
from client.keys import Key
from client.nearby import Way
from client.peer import RECONNECT_MAX_MS, RECONNECT_MS, WATCHED, Peer
from client.wire import receive, send, take

# A slow upload is not a dead peer: with 3 s here, one was cut again and again (measured).
HEARTBEAT_MS = 15_000
# After so long without an acknowledgement of data, or of a connection, a new connection is tried.
# TCP itself would go on with ever longer pauses, and still pause when a cut link is whole again.
# It tries to connect a second time after 1 s. So tries are at most 1 s apart, and the answer to
# one may wait for nearly 2 s behind images in the queue of a slow link.
UNHEARD_MS = 1_000
UNACCEPTED_MS = 1_900
# While we wait for an answer, all that we sent may be acknowledged already. For that case the
# kernel probes the peer after a second of silence, and gives the connection up two seconds later.
PROBE_AFTER_S = 1
PROBE_S = 2
# What has happened to a connection, kept until the next call reads it: 64 MB at most. Beside a
# broker that is gone it takes 17 hours to come to so many.
MOST_EVENTS = 500_000
# Copying this much costs less than having pyzmq's collector thread woken for it (measured).
COPIED_BYTES = 256 * 1024

_READABLE = int(zmq.POLLIN)


def reconnect_soon(socket: zmq.Socket[bytes]) -> None:
    """Make a socket give up a dead connection, and try a new one, sooner than TCP would."""
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    socket.setsockopt(zmq.TCP_MAXRT, UNHEARD_MS)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, UNACCEPTED_MS)


class Connection:
    """A REQ socket to one endpoint, replaced by a fresh one whenever it may hold stale state.

    Not thread-safe, except for `interrupt`; its owner serialises the calls.
    """

    def __init__(self, endpoint: str, key: Key | None = None, may_be_beside: bool = False) -> None:
        """Begin to connect.

        `may_be_beside`: by the Unix socket beside a TCP port of this host, where there is one.
        It is for small messages, as images in memory leave.

        Raises:
            BrokerUnreachable: the endpoint is not an address, or ZeroMQ cannot open a socket.
        """
        self.endpoint = endpoint
        self.is_interrupted = False
        self.is_severed = False  # is the connection gone that the last message went on?
        self._key = key
        self._way = Way(endpoint, may_be_beside)
        self._context = CONTEXTS.get()
        self._waker, self._waking = sockets.socketpair()
        self._waker.setblocking(False)
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._watched: list[tuple[Any, int]] = []  # what to poll: these two, and `_waking`
        self._peer = Peer(endpoint, key)
        try:
            self._open()
        except zmq.ZMQError as error:
            self.close()
            raise BrokerUnreachable(f"ZeroMQ itself failed: {error}") from error
        except BaseException:
            self.close()
            raise

    def is_up(self) -> bool:
        """Whether messages could be sent now; begins to connect where there is no socket."""
        if self._socket is None or self._read_monitor():
            self.drop()
            self._open()
            self._read_monitor()
        return self._peer.is_connected

    @property
    def is_forbidden(self) -> bool:
        """Whether the broker has refused our key, or the lack of one, for good."""
        return bool(self._peer.refusal)

    def send(
        self, frames: Sequence[bytes | memoryview], until: float, is_only: bool = True
    ) -> bool:
        """Send one request as soon as there is a connection.

        False if `until` passed first, if it was interrupted, or if the broker refuses our key.

        Args:
            frames: not copied where they are large.
            until: `time.monotonic()` value.
            is_only: there is no other broker to ask; else this is False at once where a connection
                was lost or nobody accepts one.
        """
        while True:
            socket = self._socket or self._open()
            # libzmq would also send to a peer that does not begin with ZeroMQ's greeting, such as
            # SSH: it assumes the first version of its protocol, and reports no handshake.
            if self._peer.is_connected:
                try:
                    # Without blocking: the connection may be lost between a poll and this.
                    send(socket, frames)
                except zmq.Again:
                    pass
                else:
                    self.is_severed = False
                    return True
            if self._read_monitor():
                # Half of the message may have gone out on the lost connection: this socket would
                # send the other half on the next one, and take the message for sent.
                self.drop()
                if not is_only:
                    return False
            elif not is_only and self._peer.is_away:
                return False
            elif self._peer.has_hung_up and not self._peer.refusal:
                self.drop()
                self.pause(min(until, time.monotonic() + self._peer.pause_s()))
            elif not self._peer.refusal and not self.is_interrupted:
                self._wait_for_connection(until)
            if self._peer.refusal or self.is_interrupted or time.monotonic() >= until:
                self._read_monitor()
                return False

    def receive(self, until: float) -> list[zmq.Frame] | None:
        """Wait for the answer.

        None if `until` passed or the connection was lost before it, or if it was interrupted.
        """
        if self._socket is None:
            return None
        while True:
            for ready, _ in zmq.zmq_poll(self._watched, _milliseconds_to(until)):
                # A REQ reports an answer without its delimiter as readable, and then drops it.
                if ready is self._socket and (frames := take(self._socket)) is not None:
                    return frames
            if self.is_interrupted:
                return None
            if self._read_monitor() or time.monotonic() >= until:
                # The answer may have come just before the end, after the poll looked for it.
                return receive(self._socket)

    def has_news(self, others: Sequence[Connection], until: float) -> bool:
        """Wait until there is something to read, here or of `others`; whether it is here."""
        polled = [each for connection in (self, *others) for each in connection._watched]
        ready = zmq.zmq_poll(polled, _milliseconds_to(until))
        mine = {socket for socket, _ in self._watched}
        return any(socket in mine for socket, _ in ready)

    def pause(self, until: float) -> None:
        """Wait until then, or until it is interrupted."""
        poller = zmq.Poller()
        poller.register(self._waking.fileno(), zmq.POLLIN)
        poller.poll(_milliseconds_to(until))

    def interrupt(self) -> None:
        """End any waiting, now and later; may be called from any thread or signal handler."""
        self.is_interrupted = True
        with contextlib.suppress(OSError):  # it is full, or closed: nobody is left waiting
            self._waker.send(b"!")

    def close(self) -> None:
        """Drop the socket and free all else."""
        self.drop()
        self._waker.close()
        self._waking.close()

    def drop(self) -> None:
        """Close the socket and forget what it was waiting for; the next `send` opens another."""
        if self._socket is not None and self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
            self._socket.close(linger=0)
        self._socket = self._monitor = None

    def failure(self) -> PolicyError:
        """The error that says why there is no connection, as far as it is known."""
        return self._peer.failure()

    def _wait_for_connection(self, until: float) -> None:
        poller = zmq.Poller()
        if self._peer.is_connected:
            poller.register(self._socket, zmq.POLLOUT)
        poller.register(self._waking.fileno(), zmq.POLLIN)
        if self._monitor is not None:  # it reports at once that our key is refused
            poller.register(self._monitor, zmq.POLLIN)
        poller.poll(_milliseconds_to(until))

    def _open(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.REQ)
        try:
            self._set_up(socket)
        except BaseException:
            self._monitor = self._socket = None
            socket.disable_monitor()  # this also closes our end of it
            socket.close(linger=0)
            raise
        try:
            address = self._way.choose()
            if self._way.is_beside:
                # Each connection is looked at before it is used, so libzmq must not make others.
                socket.setsockopt(zmq.RECONNECT_IVL, -1)
            socket.connect(address)
        except zmq.ZMQError as error:
            self.drop()
            raise BrokerUnreachable(f"{self.endpoint} is no address: {error}") from error
        return socket

    def _set_up(self, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.LINGER, 0)
        socket.copy_threshold = COPIED_BYTES
        reconnect_soon(socket)
        socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        socket.setsockopt(zmq.TCP_KEEPALIVE_IDLE, PROBE_AFTER_S)
        socket.setsockopt(zmq.TCP_KEEPALIVE_INTVL, PROBE_S)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.IPV6, int("[" in self.endpoint))
        if self._key is not None:
            self._key.secure(socket)
        self._peer.begin()
        self._monitor = self._watch(socket)
        self._socket = socket
        self._watched = [
            (socket, _READABLE),
            (self._monitor, _READABLE),
            (self._waking.fileno(), _READABLE),
        ]

    def _watch(self, socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        """A socket that tells what happens to the connection."""
        monitor = self._context.socket(zmq.PAIR)
        # With libzmq's own limit of 2,000 events, which a client has seen that is idle for minutes
        # beside a broker that is gone, the context's thread would wait, and all sockets with it.
        try:
            monitor.setsockopt(zmq.RCVHWM, MOST_EVENTS)
            address = f"inproc://monitor-{id(monitor):x}-{socket.fileno()}"
            socket.monitor(address, WATCHED)
            monitor.connect(address)
        except BaseException:
            monitor.close(linger=0)
            raise
        return monitor

    def _read_monitor(self) -> bool:
        """Read the monitor's events; True if a connection was lost that could carry messages.

        Where there is a better way to the broker, a socket that has sent nothing is replaced.
        """
        lost = moves = False
        while self._monitor is not None:
            message = receive(self._monitor)
            if message is None:
                break
            news = parse_monitor_message([frame.bytes for frame in message])
            event = news["event"]
            lost = lost or (self._peer.is_connected and event == zmq.EVENT_DISCONNECTED)
            self._peer.take_note(event, news["value"])
            moves = moves or self._way.is_worse(event, news["value"])
        self.is_severed = self.is_severed or lost
        if moves and not lost:
            self.drop()
            self._open()
        return lost


def _milliseconds_to(until: float) -> int:
    """Time left until `until`, rounded up so that a poll never returns a moment too early."""
    return max(0, int((until - time.monotonic()) * 1000.0) + 1)
