"""What a robot's client knows about whoever is at its endpoint, from the events of a monitor."""

from __future__ import annotations

import zmq

from client.errors import BrokerUnreachable, ConnectionRefusedByPeer, Forbidden, PolicyError
from client.keys import Key, key_refusal

# A robot may stand still for the longest of these pauses after its link or broker is back.
RECONNECT_MS = 10
RECONNECT_MAX_MS = 250
# After so many tries in a row that nobody accepted, the peer that hung up before is gone. A single
# one says little: when a peer resets connections at once, some look as if it had not accepted them.
TRIES_UNTIL_GONE = 6

_HANDSHAKE_FAILED = {
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
}
WATCHED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_CLOSED
    | zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_DISCONNECTED
    | sum(_HANDSHAKE_FAILED)
)


class Peer:
    """Whoever answers at one endpoint.

    Most of what is known outlives the socket, since a new one may have no time to learn anything.
    """

    def __init__(self, endpoint: str, key: Key | None) -> None:
        """`key`: the one that the client connects with."""
        self.is_connected = False  # a ZeroMQ handshake has succeeded: messages may be sent
        self.has_hung_up = False  # this socket was accepted, and the handshake failed
        self.refusal = ""  # why the broker will never accept our key, or the lack of one
        self._endpoint, self._key = endpoint, key
        self._is_silent = False  # something accepted a TCP connection, and has said nothing yet
        self._is_foreign = False  # something accepted it, and then failed the handshake
        self._is_unresolved = False  # libzmq could not even try: the host's name has no address
        self._unaccepted = 0  # tries in a row that nobody accepted
        self._hang_ups = 0  # tries in a row that were accepted and then failed
        self._event = 0  # the last one on this socket

    def begin(self) -> None:
        """A new socket connects."""
        self.is_connected = self.has_hung_up = False
        self.refusal, self._event = "", 0

    @property
    def is_away(self) -> bool:
        """Whether nobody accepted this socket's last try, or somebody did and is no broker."""
        return self.has_hung_up or self._event in (zmq.EVENT_CLOSED, zmq.EVENT_CONNECT_RETRIED)

    def take_note(self, event: int, value: int) -> None:
        """Take in an event of the socket's monitor."""
        self.is_connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        if event in _HANDSHAKE_FAILED:
            self._is_silent, self._is_foreign, self.has_hung_up = False, True, True
            self._hang_ups += 1
        elif event == zmq.EVENT_CONNECTED:
            self._is_silent, self._is_unresolved, self._unaccepted = True, False, 0
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._is_silent = self._is_foreign = False
            self._hang_ups = 0
        elif event == zmq.EVENT_CLOSED:  # nobody accepted the TCP connection
            self._is_silent = self._is_unresolved = False
            self._unaccepted += 1
            self._is_foreign = self._is_foreign and self._unaccepted < TRIES_UNTIL_GONE
        elif event == zmq.EVENT_CONNECT_RETRIED:
            # If there had been an attempt to connect, an event before this one would say so.
            self._is_unresolved = self._event in (0, zmq.EVENT_CONNECT_RETRIED)
        self._event = event
        self.refusal = self.refusal or key_refusal(event, value, self._key)

    def pause_s(self) -> float:
        """How long to leave a peer alone that hangs up, longer each time.

        libzmq would try again after its first pause each time, as the connection was accepted.
        """
        return min(RECONNECT_MS << min(self._hang_ups, 10), RECONNECT_MAX_MS) / 1e3

    def failure(self) -> PolicyError:
        """The error that says why there is no connection, as far as it is known."""
        if self.refusal:
            return Forbidden(f"the broker at {self._endpoint} {self.refusal}")
        if self._is_foreign:
            # A broker that asks for a key hangs up as well, mostly before it is heard to ask.
            key = "is a key needed (key=FILE)"
            if self._key is not None:
                key = "is the key file (key=) for another broker"
            return ConnectionRefusedByPeer(
                f"something else answers at {self._endpoint}: {key}, or is it another service's "
                "port (the broker's robots' side is its `frontend`, 8000 by default)?"
            )
        if self._is_silent:
            return ConnectionRefusedByPeer(
                f"{self._endpoint} accepts connections and stays silent: is it another "
                "service's port (the broker's robots' side is its `frontend`, 8000 by default), "
                "or a broker that is stopped or hangs?"
            )
        if self._is_unresolved:
            return BrokerUnreachable(
                f"the host of {self._endpoint} has no address that this machine can find: check "
                "its name, and that this machine's name server knows it"
            )
        return BrokerUnreachable(
            f"no broker answers at {self._endpoint}: check host and port, that "
            "`python -m broker` runs there, and that its `frontend` is bound beyond loopback "
            "(frontend=tcp://0.0.0.0:8000) if it is on another machine"
        )
