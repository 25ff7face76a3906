"""The shell's double: carries events into the real core and its commands out to simulated peers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from broker.config import BrokerConfig
from broker.core import Core
from broker.events import (
    Command,
    ConnectionLost,
    Event,
    RobotMessage,
    Stop,
    Tick,
    ToRobot,
    ToWorker,
    WorkerMessage,
    WorkerUnreachable,
)
from broker.teams import Teams
from client import errors
from client.wire import FROM_CLIENT, FROM_WORKER, VERSION, Header, decode_header, encode_header
from tests.simulation.bounds import check_bounds
from tests.simulation.clock import Clock
from tests.simulation.ledger import Ledger, plain
from tests.simulation.network import Connection, Message, Socket
from tests.simulation.violation import Violation
from tests.simulation.worker_process import FORGED

_POLL_LATE_S = 0.0005  # the shell's poll rounds up
_MONITOR_FIRST = 0.3  # chance
_MONITOR_AHEAD_S = 0.002
_REMEMBERED = 500  # events, for when something goes wrong


class BrokerProcess:
    """One broker: `core` is None while it is down. Everything it does is checked at once."""

    def __init__(
        self,
        clock: Clock,
        config: BrokerConfig,
        teams: Teams,
        ledger: Ledger,
        seed: int,
        number: int = 0,
    ) -> None:
        self.ledger = ledger
        self.core: Core | None = None
        self.handled = 0  # events of all cores so far
        self.recent: deque[tuple[float, Event, list[Command]]] = deque(maxlen=_REMEMBERED)
        self._clock, self._config, self._ledger = clock, config, ledger
        self._teams = teams
        self._offset = 0.0  # of the core's clock
        self._epoch = 1000 * (number + 1)
        self._routing_ids = 0
        self._routes: dict[str, dict[bytes, Connection]] = {"robots": {}, "workers": {}}
        self._paused: list[tuple[Callable[..., None], Connection, Any]] | None = None
        self._random = Random(f"{seed}/broker{number}" if number else seed)
        self._only_busy = False  # while paused: is libzmq's own thread still at work?
        self._asleep = False  # the core's clock jumped since it was last called
        self._wake = float("inf")
        self._stop_at = float("inf")
        self.start()

    # The process.

    @property
    def listening(self) -> bool:
        """Would a handshake succeed?"""
        return self.core is not None and (self._paused is None or self._only_busy)

    @property
    def answering(self) -> bool:
        """Would a `ping` be answered at once?"""
        return self.core is not None and self._paused is None

    @property
    def core_now(self) -> float:
        """The core's clock, which may have jumped."""
        return self._clock.now + self._offset

    def start(self) -> None:
        """Come up with an empty core of a new epoch."""
        if self.core is None:
            self._epoch += 1
            self.core = Core(self._config, self._epoch, self.core_now, self._teams)
            self._ledger.begin(self.core)
            self._tell(Tick())

    def kill(self) -> None:
        """End at once; all connections with it."""
        if self.core is None:
            return
        self.core, self._paused = None, None
        self._wake = self._stop_at = float("inf")
        self._ledger.begin(None)
        for routes in self._routes.values():
            connections = list(routes.values())
            routes.clear()
            for connection in connections:
                connection.close(at_broker=True)

    def stop(self) -> None:
        """As on SIGTERM: take nothing new, give what is with workers a moment, end."""
        if self.core is not None and self._paused is None:
            self._stop_at = self._clock.now + self._config.timers.drain_ms / 1e3
            self._clock.at(self._stop_at, self._end_if_stopped)
            self._ledger.is_stopping = True
            self._tell(Stop())

    def pause(self, only_busy: bool) -> None:
        """As on SIGSTOP; or `only_busy`, as in a long garbage collection: connections are made."""
        if self.core is not None and self._paused is None:
            self._paused, self._only_busy = [], only_busy

    def resume(self) -> None:
        """All that came meanwhile is taken in: in turns, each connection's in its order."""
        if self._paused is None:
            return
        self._asleep = True
        missed, self._paused = self._paused, None
        waiting: dict[Connection, deque[tuple[Callable[..., None], Any]]] = {}
        for action, connection, argument in missed:
            waiting.setdefault(connection, deque()).append((action, argument))
        while waiting:
            connection = self._random.choice(list(waiting))
            action, argument = waiting[connection].popleft()
            action(connection, argument)
            if not waiting[connection]:
                del waiting[connection]
        self._tell(Tick())

    def jump(self, seconds: float) -> None:
        """The core's clock moves on while nobody else's does."""
        self._offset += seconds
        self._asleep = True

    # The network.

    def accept(self, connection: Connection) -> None:
        """A peer connected; one whose routing id is in use takes it over (ROUTER_HANDOVER)."""
        self._routing_ids += 1
        fresh = b"\0" + self._routing_ids.to_bytes(4, "big")
        connection.routing_id = connection.socket.identity or fresh
        routes = self._routes[connection.socket.port]
        old = routes.get(connection.routing_id)
        routes[connection.routing_id] = connection
        if old is not None:
            old.routing_id = fresh
            old.close(at_broker=True)

    def take(self, connection: Connection, message: Message) -> None:
        """A peer sent this."""
        if self._paused is not None:
            self._paused.append((self.take, connection, message))
        elif self.core is not None:
            if connection.socket.port == "robots":
                self._take_from_robot(connection, message)
            else:
                self._take_from_worker(connection, message)

    def lost(self, connection: Connection, hint: str) -> None:
        """A connection is closed; the monitor says of which workers, rightly or wrongly."""
        if self._paused is not None:
            self._paused.append((self.lost, connection, hint))
            return
        # The monitor may speak before the socket has heard of the loss and refuses to send.
        if self._random.random() < _MONITOR_FIRST:
            self._clock.after(_MONITOR_AHEAD_S, self._forget, connection)
        else:
            self._forget(connection)
        if connection.socket.port == "workers":
            self._tell(ConnectionLost(self._suspects(connection, hint)))

    def _forget(self, connection: Connection) -> None:
        routes = self._routes[connection.socket.port]
        if routes.get(connection.routing_id) is connection:
            del routes[connection.routing_id]

    def reaches(self, socket: Socket) -> bool:
        """Do broker and worker mean the same connection by its routing id?"""
        connection = self._routes["workers"].get(socket.identity)
        return connection is not None and connection is socket.connection

    def _suspects(self, connection: Connection, hint: str) -> tuple[bytes, ...]:
        others = tuple(sorted(self._routes["workers"]))
        return {"right": (connection.socket.identity,), "wrong": others[:1], "none": ()}[hint]

    def _take_from_robot(self, connection: Connection, message: Message) -> None:
        sender, tag = connection.routing_id, message[0]
        header = decode_header(message[2], FROM_CLIENT)
        self._ledger.arrived(tag, sender)
        self._tell(RobotMessage(sender, [sender, tag, b""], header, message[3:]))

    def _take_from_worker(self, connection: Connection, message: Message) -> None:
        try:
            header = decode_header(message[0], FROM_WORKER)
        except errors.PolicyError as error:
            if message[-1] != FORGED:
                raise Violation(1, f"a worker said what cannot be read: {error}") from error
            # The shell answers this without the core.
            header = {"v": VERSION, "kind": "error", **errors.to_wire(error)}
            connection.send(False, [encode_header(header)])
            return
        size = sum(map(len, message[1:]))
        if header["kind"] == "result" and size > self._config.limits.max_bytes:
            # Twice as many in one frame, and the connection would be cut without a word.
            raise Violation(4, f"a worker answered {size} bytes")
        if message[-1] == FORGED and self._must_believe(connection.routing_id, header):
            return
        self._tell(WorkerMessage(connection.routing_id, header, message[1:]))

    def _must_believe(self, identity: bytes, header: Header) -> bool:
        """Is this about something that the core gave to this very worker?"""
        if self.core is None or header.get("epoch") != self._epoch:
            return False
        worker = self.core.pool.by_id.get(identity)
        return worker is not None and (header["id"], header["attempt"]) in worker.in_hand

    # The core.

    def _tell(self, event: Event) -> None:
        """Tell the core, check and carry out what it asks for, until nothing follows from it."""
        if self.core is None:
            return
        pending = [event]
        for each in pending:
            now = self.core_now
            try:
                commands = self.core.handle(each, now)
            except Exception as error:
                raise Violation(1, f"{each} made the core raise {error!r}") from error
            self.handled += 1
            self.recent.append((now, each, commands))
            self._ledger.check(each, commands, now, self._asleep)
            self._asleep = False
            check_bounds(self.core, now)
            for command in commands:
                consequence = self._carry_out(command)
                if consequence is not None:
                    pending.append(consequence)
        self._plan_wake()
        self._end_if_stopped()

    def _carry_out(self, command: Command) -> Event | None:
        if isinstance(command, ToRobot):
            connection = self._routes["robots"].get(plain(command.envelope)[0])
            if connection is not None:
                header, payload = command.header, command.payload
                if connection.link.misleads and "id" in header:
                    connection.link.misleads = False
                    client, sequence = header["id"]
                    header, payload = {**header, "id": [client, sequence + 1]}, [FORGED]
                frames = [*command.envelope[1:], encode_header(header), *payload]
                connection.send(False, plain(frames))
        elif isinstance(command, ToWorker):
            connection = self._routes["workers"].get(command.worker)
            if connection is None or self._clock.now < connection.refuses_until:
                return WorkerUnreachable(command.worker)
            frames = [encode_header(command.header), *command.payload]
            note = None
            if command.header["kind"] == "infer" and self.core is not None:
                note = self.core.pool.by_id[command.worker]
            connection.send(False, plain(frames), note)
        return None

    def _plan_wake(self) -> None:
        if self.core is None:
            return
        wake = self.core.wake_at() - self._offset + _POLL_LATE_S
        if wake < self._wake:
            self._wake = wake
            self._clock.at(wake, self._tick, wake)

    def _tick(self, planned: float) -> None:
        if planned != self._wake:
            return
        self._wake = float("inf")
        if self._paused is None:
            self._tell(Tick())

    def _end_if_stopped(self) -> None:
        if self.core is None or self._stop_at == float("inf"):
            return
        if not self.core.in_hand or self._clock.now >= self._stop_at:
            self.kill()
