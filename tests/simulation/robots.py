"""Robots that speak the protocol without our client: a bare REQ, and a DEALER that pipelines."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from client.wire import TO_CLIENT, VERSION, Header, RequestId, decode_header, encode_header
from tests.simulation.clock import Clock
from tests.simulation.ledger import Ledger, SentMessage
from tests.simulation.network import Link, Listener, Message, Socket
from tests.simulation.schedule import RobotSpec
from tests.simulation.violation import Violation


@dataclass(slots=True, eq=False)
class Call:
    """One call of a robot's program: `infer`, `reset`, `metadata`, `ping` or an operator's."""

    kind: str
    body: bytes = b""
    deadline_s: float = 1.0
    policy: str | None = None
    session: str = ""
    priority: int = 1
    sequence: int = 0
    until: float = 0.0
    tag: bytes = b""  # of its latest message


class Robot:
    """What all robots share: numbering, headers and the ledger."""

    def __init__(
        self, clock: Clock, spec: RobotSpec, link: Link, listener: Listener, ledger: Ledger
    ) -> None:
        self.outcomes: Counter[str] = Counter()
        self._clock, self._spec, self._link, self._listener = clock, spec, link, listener
        self._ledger = ledger
        self._uuid = link.name.encode().ljust(16, b"-")
        self._sent = 0

    def call(self, call: Call) -> None:
        """The program calls."""
        raise NotImplementedError

    def again(self) -> None:
        """The program sends its last message again; only where it may."""

    def missed(self, socket: Socket, message: Message) -> None:
        """An answer to what was given up."""

    def rest(self) -> None:
        """The program makes no further calls."""

    @property
    def is_idle(self) -> bool:
        """Is no call under way?"""
        raise NotImplementedError

    def _message(self, call: Call, deadline_ms: float) -> Message:
        """A call as a message with a fresh tag, entered into the ledger."""
        header: Header = {"v": VERSION, "kind": call.kind, "deadline_ms": deadline_ms}
        header["priority"], header["session"] = call.priority, call.session
        header.update(self._spec.told())
        id = RequestId(self._uuid, call.sequence) if self._spec.names_requests else None
        if id is not None:
            header["id"] = id
        if call.policy is not None:
            header["policy"] = call.policy
        body = [call.body] if call.body else []
        return self._enter(call, call.kind, id, [encode_header(header), *body])

    def _enter(
        self, call: Call, kind: str, id: RequestId | None, frames: Sequence[bytes]
    ) -> Message:
        """Frames of a call as a message with a fresh tag, entered into the ledger."""
        self._sent += 1
        call.tag = b"%s#%d" % (self._link.name.encode(), self._sent)
        session = (self._uuid, call.session)
        body = b"".join(frames[1:])
        self._ledger.asked(SentMessage(call.tag, kind, id, session, call.policy, body, self._sent))
        return [call.tag, b"", *frames]


class Caller(Robot):
    """A program that makes one call at a time on a socket that is replaced after every loss."""

    def __init__(
        self, clock: Clock, spec: RobotSpec, link: Link, listener: Listener, ledger: Ledger
    ) -> None:
        super().__init__(clock, spec, link, listener, ledger)
        self.on_answer: Callable[[Call, str], None] | None = None
        self._calls: deque[Call] = deque()
        self._current: Call | None = None
        self._socket: Socket | None = None
        self._unsent: Message | None = None

    @property
    def is_idle(self) -> bool:
        """Is no call under way?"""
        return self._current is None

    def call(self, call: Call) -> None:
        """Queue a call: the program's next one begins when this one has ended."""
        self._calls.append(call)
        if self._current is None:
            self._next()

    def rest(self) -> None:
        """The program makes no further calls; the one under way goes on."""
        self._calls.clear()

    def _next(self) -> None:
        call = self._current = self._calls.popleft() if self._calls else None
        if call is not None:
            call.until = self._clock.now + call.deadline_s
            self._begin(call)

    def connected(self, socket: Socket) -> None:
        """What waited for a connection can go."""
        raise NotImplementedError

    def disconnected(self, socket: Socket) -> None:
        """The connection was lost while an answer is awaited, or while there was nothing to do."""
        raise NotImplementedError

    def receive(self, socket: Socket, message: Message, note: Any) -> None:
        """An answer."""
        raise NotImplementedError

    def _begin(self, call: Call) -> None:
        raise NotImplementedError

    def _put(self, message: Message) -> bool:
        """Send now, or as soon as there is a connection."""
        if self._socket is None:
            self._socket = Socket(self, self._link, self._listener, "robots")
        is_sent = self._socket.send(message)
        self._unsent = None if is_sent else message
        return is_sent

    def _end(self, word: str) -> None:
        call = self._current
        self.outcomes[word] += 1
        if call is not None and self.on_answer is not None:
            self.on_answer(call, word)
        self._next()

    def _drop(self) -> None:
        self._unsent = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _check_is_mine(self, message: Message) -> Call:
        """On a socket this fresh an answer can only be to the latest message."""
        call = self._current
        if call is None or message[0] != call.tag:
            raise Violation(2, f"{self._link.name} got an answer to {message[0]!r}")
        return call


class BareRobot(Caller):
    """A REQ without ids: once its connection is lost, it waits in vain until its deadline."""

    def _begin(self, call: Call) -> None:
        self._clock.at(call.until, self._give_up, call)
        left_ms = call.deadline_s * 1e3
        self._put(self._message(call, left_ms - min(100.0, 0.1 * left_ms)))

    def connected(self, socket: Socket) -> None:
        """What waited for a connection can go."""
        if self._unsent is not None:
            self._put(self._unsent)

    def disconnected(self, socket: Socket) -> None:
        """The connection was lost while an answer is awaited, or while there was nothing to do."""
        self._drop()

    def receive(self, socket: Socket, message: Message, note: Any) -> None:
        """An answer."""
        self._check_is_mine(message)
        self._end(_word(decode_header(message[2], TO_CLIENT)))

    def _give_up(self, call: Call) -> None:
        if call is self._current:
            self._drop()
            self._end("gave up")


class Pipeliner(Robot):
    """Sends whatever it is told to at once, on one DEALER, and takes answers as they come."""

    def __init__(
        self, clock: Clock, spec: RobotSpec, link: Link, listener: Listener, ledger: Ledger
    ) -> None:
        super().__init__(clock, spec, link, listener, ledger)
        self._socket = Socket(self, link, listener, "robots")
        self._asked: set[bytes] = set()
        self._last: Call | None = None

    @property
    def is_idle(self) -> bool:
        """It waits for nothing."""
        return True

    def call(self, call: Call) -> None:
        """Send, if there is a connection."""
        self._last = call
        call.sequence, call.until = self._sent, self._clock.now + call.deadline_s
        self._send(call)

    def again(self) -> None:
        """Send the last call's message once more, with the same id."""
        if self._last is not None and self._spec.names_requests:
            self._send(self._last)

    def _send(self, call: Call) -> None:
        left_ms = max(0.0, call.until - self._clock.now) * 1e3
        message = self._message(call, left_ms)
        if self._socket.send(message):
            self._asked.add(call.tag)

    def connected(self, socket: Socket) -> None:
        """What was asked on another connection is never answered on this one."""
        self._asked.clear()

    def disconnected(self, socket: Socket) -> None:
        """The socket connects again by itself."""

    def receive(self, socket: Socket, message: Message, note: Any) -> None:
        """An answer to something asked on this connection, once."""
        header = decode_header(message[2], TO_CLIENT)
        if message[0] not in self._asked:
            raise Violation(2, f"{self._link.name} got an answer to {message[0]!r}")
        self._asked.remove(message[0])
        self.outcomes[_word(header)] += 1


def _word(header: Header) -> str:
    word: str = header["code"] if header["kind"] == "error" else header["kind"]
    return word
