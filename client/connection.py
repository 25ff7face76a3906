"""The robot's one socket: a REQ used the lazy-pirate way.

A REQ socket that lost its peer, or whose answer was given up, can never be trusted again: it is
closed and a new one opened, so no answer to an older request can arrive. The socket's monitor
tells of a lost connection within milliseconds; nothing here waits for a timer to notice. And
`interrupt` ends any waiting from another thread, or from a signal handler in this one.
"""

from __future__ import annotations

import contextlib
import socket as sockets
import time
from typing import Any, Sequence

import zmq
from zmq.utils.monitor import parse_monitor_message

from client.contexts import CONTEXTS
from client.errors import BrokerUnreachable, ConnectionRefusedByPeer, Forbidden, PolicyError
from client.keys import Key, key_refusal
from client.wire import receive, send

# A slow upload is not a dead peer: 3 s here was measured to cut one for ever (DESIGN).
HEARTBEAT_MS = 15_000
# Data that nobody acknowledges, or a connection that nobody accepts: after so long, try a new one.
# TCP itself would go on with ever longer pauses, and sleep on after a cut link is whole again. Its
# second try to connect comes after 1 s: so tries are at most 1 s apart, and an answer to one may
# wait for nearly 2 s behind images in the queue of a slow link.
UNHEARD_MS = 1_000
UNACCEPTED_MS = 1_900
# While an answer is awaited nothing of ours may be unacknowledged: then the kernel asks the other
# one's after a second without a word, and gives the connection up two seconds later.
PROBE_AFTER_S = 1
PROBE_S = 2
# The longest pause is what a robot may stand still for after its link or broker is back.
RECONNECT_MS = 10
RECONNECT_MAX_MS = 250
# After so many tries in a row that nobody accepted, whoever hung up before is not there any more.
# One says little: a peer that resets connections at once looks as if it had not accepted some.
TRIES_UNTIL_GONE = 6
# Copying this much costs less than having pyzmq's collector thread woken for it (measured).
COPIED_BYTES = 256 * 1024

_READABLE = int(zmq.POLLIN)
_HANDSHAKE_FAILED = {
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
}
_WATCHED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | sum(_HANDSHAKE_FAILED)
)


def reconnect_soon(socket: zmq.Socket[bytes]) -> None:
    """Have a connection that nobody hears given up and tried anew, sooner than TCP would."""
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    socket.setsockopt(zmq.TCP_MAXRT, UNHEARD_MS)
    socket.setsockopt(zmq.CONNECT_TIMEOUT, UNACCEPTED_MS)


class Connection:
    """A REQ socket to one endpoint, replaced by a fresh one whenever it may hold stale state.

    Not thread-safe, but for `interrupt`; its owner serialises the calls.
    """

    def __init__(self, endpoint: str, key: Key | None = None) -> None:
        """Begin to connect.

        Raises:
            BrokerUnreachable: the endpoint is no address, or no socket can be had.
        """
        self.endpoint = endpoint
        self.is_interrupted = False
        self._key = key
        self._context = CONTEXTS.get()
        self._waker, self._waking = sockets.socketpair()
        self._waker.setblocking(False)
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._watched: list[tuple[Any, int]] = []  # both and the waking, for what comes in
        # What the monitor told last. All but `_established` outlive the socket, since a new one
        # may have no time to learn anything.
        self._established = False  # a ZeroMQ handshake has succeeded: messages may be sent
        self._reached = False  # something accepted a TCP connection, and has said nothing yet
        self._refused = False  # something accepted it, and then failed the handshake
        self._unresolved = False  # libzmq could not even try: the host's name has no address
        self._unaccepted = 0  # tries in a row that nobody accepted
        self._event = 0  # the last one on this socket
        self._forbidden = ""  # why no key of ours will do, if that is why
        try:
            self._open()
        except zmq.ZMQError as error:
            self.close()
            raise BrokerUnreachable(f"ZeroMQ itself failed: {error}") from error
        except BaseException:
            self.close()
            raise

    @property
    def is_forbidden(self) -> bool:
        """Has the broker refused our key, or lack of one, for good?"""
        return bool(self._forbidden)

    def send(self, frames: Sequence[bytes | memoryview], until: float) -> bool:
        """Send one request as soon as there is a connection.

        False if `until` passed first, if it was interrupted, or if the broker refuses our key.

        Args:
            frames: not copied where they are large.
            until: `time.monotonic()` value.
        """
        socket = self._socket or self._open()
        while True:
            # libzmq would also send to whoever does not begin with its greeting, such as SSH: it
            # takes that for its own protocol's first version, and never tells of a handshake.
            if self._established:
                try:
                    # Without blocking: the connection may be lost between a poll and this.
                    send(socket, frames)
                except zmq.Again:
                    pass
                else:
                    return True
            if self._read_monitor():
                # The lost connection may have half of the message: this socket would go on
                # with the other half, and then believe that it has sent it.
                self.drop()
                socket = self._open()
            elif not self._forbidden and not self.is_interrupted:
                self._wait_for_connection(socket, until)
            if self._forbidden or self.is_interrupted or time.monotonic() >= until:
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
                # REQ shows an answer without its delimiter as readable, and then throws it away.
                if ready is self._socket and (frames := receive(self._socket)) is not None:
                    return frames
            if self.is_interrupted:
                return None
            if self._read_monitor() or time.monotonic() >= until:
                # The answer may have come between the poll's two looks, just before the end.
                return receive(self._socket)

    def pause(self, until: float) -> None:
        """Wait until then, or until it is interrupted."""
        poller = zmq.Poller()
        poller.register(self._waking.fileno(), zmq.POLLIN)
        poller.poll(_milliseconds_to(until))

    def interrupt(self) -> None:
        """End any waiting, now and from now on; from any thread, or from a signal handler."""
        self.is_interrupted = True
        with contextlib.suppress(OSError):  # it is full, or closed: whoever waited is awake
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
        """Why there is no connection, as far as the monitor could tell."""
        if self._forbidden:
            return Forbidden(f"the broker at {self.endpoint} {self._forbidden}")
        if self._refused:
            return ConnectionRefusedByPeer(
                f"something else answers at {self.endpoint}, and it is no broker for us: is it "
                "another service's port (the broker's robots' side is its `frontend`, 8000 by "
                "default), or is the key file (key=) for another broker?"
            )
        if self._reached:
            return ConnectionRefusedByPeer(
                f"{self.endpoint} accepts connections and stays silent: is it another "
                "service's port (the broker's robots' side is its `frontend`, 8000 by default), "
                "or a broker that is stopped or hangs?"
            )
        if self._unresolved:
            return BrokerUnreachable(
                f"the host of {self.endpoint} has no address that this machine can find: check "
                "its name, and that this machine's name server knows it"
            )
        return BrokerUnreachable(
            f"no broker answers at {self.endpoint}: check host and port, that "
            "`python -m broker` runs there, and that its `frontend` is bound beyond loopback "
            "(frontend=tcp://0.0.0.0:8000) if it is on another machine"
        )

    def _wait_for_connection(self, socket: zmq.Socket[bytes], until: float) -> None:
        poller = zmq.Poller()
        if self._established:
            poller.register(socket, zmq.POLLOUT)
        poller.register(self._waking.fileno(), zmq.POLLIN)
        if self._monitor is not None:  # it tells at once that our key is refused
            poller.register(self._monitor, zmq.POLLIN)
        poller.poll(_milliseconds_to(until))

    def _open(self) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.REQ)
        try:
            self._set_up(socket)
        except BaseException:
            self._monitor = self._socket = None
            socket.disable_monitor()  # which closes its end here too
            socket.close(linger=0)
            raise
        try:
            socket.connect(self.endpoint)
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
        self._established, self._event, self._forbidden = False, 0, ""
        self._monitor = socket.get_monitor_socket(_WATCHED)
        self._socket = socket
        self._watched = [
            (socket, _READABLE),
            (self._monitor, _READABLE),
            (self._waking.fileno(), _READABLE),
        ]

    def _read_monitor(self) -> bool:
        """Take in the monitor's news; True if a connection was lost that messages could use."""
        lost = False
        while self._monitor is not None:
            message = receive(self._monitor)
            if message is None:
                break
            news = parse_monitor_message([frame.bytes for frame in message])
            event = news["event"]
            lost = lost or (self._established and event == zmq.EVENT_DISCONNECTED)
            self._take_note(event)
            self._forbidden = self._forbidden or key_refusal(event, news["value"], self._key)
        return lost

    def _take_note(self, event: int) -> None:
        """Remember what an event of the monitor says about whoever is at the endpoint."""
        self._established = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        if event in _HANDSHAKE_FAILED:
            self._reached, self._refused = False, True
        elif event == zmq.EVENT_CONNECTED:
            self._reached, self._unresolved, self._unaccepted = True, False, 0
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._reached = self._refused = False
        elif event == zmq.EVENT_CLOSED:  # nobody accepted the TCP connection
            self._reached = self._unresolved = False
            self._unaccepted += 1
            self._refused = self._refused and self._unaccepted < TRIES_UNTIL_GONE
        elif event == zmq.EVENT_CONNECT_RETRIED:
            # After an attempt, or a connection, another event has told how that ended.
            self._unresolved = self._event in (0, zmq.EVENT_CONNECT_RETRIED)
        self._event = event


def _milliseconds_to(until: float) -> int:
    """Time left until `until`, rounded up so that a poll never returns a moment too early."""
    return max(0, int((until - time.monotonic()) * 1000.0) + 1)
