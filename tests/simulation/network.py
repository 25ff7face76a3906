"""TCP as ZeroMQ's sockets see it: ordered connections that delay, stall, break and come again.

A message is a list of frames without routing id. What a connection carries arrives in order or
not at all; a connection that breaks is noticed by each end at its own moment, and until then
either end may still receive what was under way.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Protocol

from tests.simulation.clock import Clock

Message = Sequence[bytes]

_RECONNECT_S = 0.01  # doubles with every failure, as both our sockets are configured
_FIN: Message = ()


class Owner(Protocol):
    """Whoever holds a `Socket`."""

    def connected(self, socket: Socket) -> None:
        """Messages can be sent now."""

    def receive(self, socket: Socket, message: Message, note: Any) -> None:
        """The broker sent this; `note` is what it attached for the simulation's own eyes."""

    def disconnected(self, socket: Socket) -> None:
        """The connection was lost; the socket tries to make it again by itself."""

    def missed(self, socket: Socket, message: Message) -> None:
        """The broker sent this, and the socket was closed before it came."""


class Listener(Protocol):
    """The broker's end of all connections."""

    @property
    def listening(self) -> bool:
        """Would a handshake succeed?"""

    @property
    def answering(self) -> bool:
        """Would a `ping` be answered at once?"""

    def accept(self, connection: Connection) -> None:
        """A peer connected."""

    def take(self, connection: Connection, message: Message) -> None:
        """A peer sent this."""

    def lost(self, connection: Connection, hint: str) -> None:
        """The connection is closed; `hint` says what the monitor will make of it."""


class Link:
    """The way between one peer and the broker's machine."""

    def __init__(self, clock: Clock, name: str, delay_s: float, hang_up_s: float, seed: int):
        self.clock = clock
        self.name = name
        self.delay_s = delay_s
        self.hang_up_s = hang_up_s  # of silence, after which both ends give a connection up
        self.extra_s = 0.0
        self.reconnect_max_s = 1.0
        self.connections: list[Connection] = []
        self.under_way = 0  # messages
        self.random = Random(f"{seed}/{name}")
        self.disturbances = 0  # so far
        self.misleads = False  # is the next answer to be another's?
        self._blocked = 0  # by how many faults at once
        self._blockades = 0

    def travel_s(self) -> float:
        """How long a message takes this time."""
        return (self.extra_s + self.delay_s) * (0.5 + self.random.random())

    @property
    def is_blocked(self) -> bool:
        """Does nothing get through?"""
        return self._blocked > 0

    def block(self) -> None:
        """From now on everything is held up; ends that wait too long give up."""
        self._blocked += 1
        self._blockades += 1
        self.disturbances += 1
        for connection in self.connections:
            for at_broker in (False, True):
                patience = self.hang_up_s * (0.8 + 0.4 * self.random.random())
                self.clock.after(patience, self._give_up, connection, at_broker, self._blockades)

    def unblock(self) -> None:
        """What was held up goes on."""
        self._blocked = max(0, self._blocked - 1)
        if not self._blocked:
            for connection in list(self.connections):
                connection.release()

    def heal(self) -> None:
        """Nothing is held up or delayed any more, and every broken connection is known."""
        self.extra_s = 0.0
        self.misleads = False
        while self.is_blocked:
            self.unblock()
        for connection in [each for each in self.connections if each.is_cut]:
            connection.close(at_broker=True)
            connection.close(at_broker=False)

    def _give_up(self, connection: Connection, at_broker: bool, blockade: int) -> None:
        if self._blocked and blockade == self._blockades:
            connection.close(at_broker)


class Connection:
    """One TCP connection; the broker's ROUTER names it by `routing_id`."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.link = socket.link
        self.routing_id = b""
        self.refuses_until = 0.0  # the broker's queue for it is full until then
        self._open = [True, True]  # at the peer, at the broker
        self.is_cut = False
        self._last = [0.0, 0.0]  # arrival of the latest message towards peer, broker
        self._held: list[tuple[bool, Message, Any]] = []

    def send(self, to_broker: bool, message: Message, note: Any = None) -> None:
        """Put a message on its way."""
        if self.is_cut:
            return
        if self.link.is_blocked:
            self._held.append((to_broker, message, note))
            return
        clock = self.link.clock
        arrival = max(self._last[to_broker], clock.now + self.link.travel_s())
        self._last[to_broker] = arrival
        self.link.under_way += 1
        clock.at(arrival, self._arrive, to_broker, message, note)

    def release(self) -> None:
        """Send on what a blockade held up."""
        held, self._held = self._held, []
        for each in held:
            self.send(*each)

    def cut(self, peer_after_s: float, broker_after_s: float, hint: str) -> None:
        """Break; each end notices after its own time, and what is sent from now on is lost."""
        self.is_cut = True
        self.link.disturbances += 1
        self._held = []
        self.link.clock.after(peer_after_s, self.close, False)
        self.link.clock.after(broker_after_s, self.close, True, hint)

    def close(self, at_broker: bool, hint: str = "right") -> None:
        """One end is closed; the other hears of it behind what is under way."""
        if not self._open[at_broker]:
            return
        self._open[at_broker] = False
        if not any(self._open):
            self.link.connections.remove(self)
        self.send(not at_broker, _FIN)
        if at_broker:
            self.socket.listener.lost(self, hint)
        else:
            self.socket.lost(self)

    def _arrive(self, at_broker: bool, message: Message, note: Any) -> None:
        self.link.under_way -= 1
        if not self._open[at_broker]:
            if not at_broker and message is not _FIN:
                self.socket.owner.missed(self.socket, message)
            return
        if message is _FIN:
            self.close(at_broker)
        elif at_broker:
            self.socket.listener.take(self, message)
        else:
            self.socket.arrived(message, note)


class Socket:
    """A peer's socket: one connection at a time, made again whenever it is lost.

    While frozen (its process is stopped) nothing reaches the owner; all of it comes at `thaw`.
    """

    def __init__(
        self, owner: Owner, link: Link, listener: Listener, port: str, identity: bytes = b""
    ) -> None:
        self.owner, self.link, self.listener, self.port = owner, link, listener, port
        self.identity = identity
        self._connection: Connection | None = None
        self._closed = False
        self._retry_s = _RECONNECT_S
        self._frozen: list[tuple[Any, ...]] | None = None
        self.link.clock.after(2 * link.travel_s(), self._attempt)

    @property
    def is_connected(self) -> bool:
        """Can messages be sent?"""
        return self._connection is not None

    @property
    def connection(self) -> Connection | None:
        """The one in use."""
        return self._connection

    def send(self, message: Message) -> bool:
        """Send now or not at all."""
        if self._connection is None:
            return False
        self._connection.send(True, message)
        return True

    def close(self) -> None:
        """Hang up for good."""
        self._closed = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(at_broker=False)

    def freeze(self) -> None:
        """The process is stopped."""
        if self._frozen is None:
            self._frozen = []

    def thaw(self) -> None:
        """The process goes on, with all that has come meanwhile."""
        events, self._frozen = self._frozen or [], None
        for action, *arguments in events:
            action(*arguments)

    def arrived(self, message: Message, note: Any) -> None:
        """A message came."""
        if self._frozen is not None:
            self._frozen.append((self.arrived, message, note))
        elif not self._closed:
            self.owner.receive(self, message, note)

    def lost(self, connection: Connection) -> None:
        """A connection was lost."""
        if self._frozen is not None:
            self._frozen.append((self.lost, connection))
        elif not self._closed and connection is self._connection:
            self._connection = None
            self._retry_s = _RECONNECT_S
            self.link.clock.after(self._retry_s, self._attempt)
            self.owner.disconnected(self)

    def _attempt(self) -> None:
        if self._frozen is not None:
            self._frozen.append((self._attempt,))
        elif self._closed or self._connection is not None:
            return
        elif self.link.is_blocked or not self.listener.listening:
            self.link.clock.after(self._retry_s, self._attempt)
            self._retry_s = min(2 * self._retry_s, self.link.reconnect_max_s)
        else:
            self._connection = Connection(self)
            self.link.connections.append(self._connection)
            self.listener.accept(self._connection)
            self.owner.connected(self)
