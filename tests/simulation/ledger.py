"""Who asked what, and whether the core's commands are the right answers to it.

Every message of a robot carries a tag of its own in its return envelope (a ROUTER allows any
number of frames there), so that each answer is known to belong to one message.
"""

from __future__ import annotations

import heapq
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from broker.core import Core
from broker.events import Command, Event, RobotMessage, ToRobot, ToWorker
from client.errors import PolicyError
from client.names import base_of
from client.wire import Frame, Header, RequestId, decode_header, encode_header
from tests.simulation.episodes import Asked, Episodes
from tests.simulation.violation import Violation

LATE_S = 0.1  # how long after its deadline a final answer may come
MAX_ATTEMPTS = 2
FORGOTTEN_S = 60.0  # after its last worker, a policy is no longer meant by those who name none


def plain(frames: Iterable[Frame]) -> list[bytes]:
    """Frames as bytes; the core passes on what it was given, and here that is bytes."""
    return [frame if isinstance(frame, bytes) else frame.bytes for frame in frames]


def _as_sent(header: Header) -> Header:
    """A header as the other side reads it."""
    try:
        return decode_header(encode_header(header))
    except PolicyError as error:
        raise Violation(1, f"{header} cannot be read: {error}") from error


@dataclass(slots=True, eq=False)
class SentMessage:
    """One message of a robot."""

    tag: bytes
    kind: str
    id: RequestId | None
    session: tuple[bytes, str]
    policy: str | None
    body: bytes
    order: int  # among all messages, as they were sent
    sender: bytes = b""
    pending: Pending | None = None

    @property
    def episode(self) -> tuple[bytes, str]:
        """The session as a broker knows it: without an id the connection stands for the robot."""
        return self.session if self.id is not None else (self.sender, self.session[1])


@dataclass(slots=True, eq=False)
class Pending:
    """A request in the core's hands, asked once or several times over."""

    newest: SentMessage
    deadline: float  # the core's clock
    attempts: int = 0
    answered: bool = False
    asked: Asked | None = None  # where it is for one of several versions


@dataclass
class Ledger:
    """What robots asked of one broker after another; raises `Violation` 1 and 2."""

    default_deadline_s: float
    outcomes: Counter[str] = field(default_factory=Counter)
    digest: int = 0  # of everything that went to robots, to compare two runs
    is_stopping: bool = False
    given: list[bytes] = field(default_factory=list)  # to workers, in this order
    episodes: Episodes = field(default_factory=lambda: Episodes(None))
    _core: Core | None = None
    _messages: dict[bytes, SentMessage] = field(default_factory=dict)
    _by_id: dict[RequestId, Pending] = field(default_factory=dict)
    _by_body: dict[bytes, Pending] = field(default_factory=dict)
    _deadlines: list[tuple[float, int, Pending]] = field(default_factory=list)
    _open: int = 0
    _taken: int = 0
    _superseders: dict[tuple[bytes, str], int] = field(default_factory=dict)
    _resets: set[tuple[bytes, str]] = field(default_factory=set)
    _woke_at: float = 0.0
    _served_at: dict[str, float] = field(default_factory=dict)  # by policy, the core's clock
    _alive: set[str] = field(default_factory=set)  # policies

    def begin(self, core: Core | None) -> None:
        """Another core: what the old one had in hand is nobody's any more."""
        self.outcomes["forgotten by a restart"] += self._open
        self._core, self.is_stopping, self._open = core, False, 0
        self.episodes = Episodes(core)
        self._served_at, self._alive = {}, set()
        self._by_id, self._by_body, self._deadlines = {}, {}, []
        for message in self._messages.values():
            message.pending = None

    def asked(self, message: SentMessage) -> None:
        """A robot sends a message."""
        self._messages[message.tag] = message

    def arrived(self, tag: bytes, sender: bytes) -> None:
        """The message reached the broker over the connection of this routing id."""
        self._messages[tag].sender = sender

    def check(self, event: Event, commands: Sequence[Command], now: float, woke: bool) -> None:
        """Check what the core makes of an event; `woke`: its clock had jumped before it."""
        if woke:
            self._woke_at = now
        self._note_served(now)
        self.episodes.look(now)
        message = None
        if isinstance(event, RobotMessage):
            message = self._messages[plain(event.envelope)[1]]
            self._note(message, event.header, now)
        for command in commands:
            if isinstance(command, ToRobot):
                self._check_answer(command, message, now)
            elif isinstance(command, ToWorker) and command.header["kind"] == "infer":
                self._check_attempt(command, now)
        if message is not None and message.kind != "infer" and message.tag in self._messages:
            raise Violation(1, f"{message.kind} was not answered at once")
        self._check_nobody_waits(now)

    def _note_served(self, now: float) -> None:
        if self._core is not None:
            for policy, workers in self._core.pool.by_policy.items():
                if workers or policy in self._alive:
                    self._served_at[policy] = now
                (self._alive.add if workers else self._alive.discard)(policy)

    def _note(self, message: SentMessage, header: Header, now: float) -> None:
        if message.kind == "reset":
            self._resets.add(message.session)
            self.episodes.reset(message.episode)
        if message.kind != "infer":
            return
        self._superseders[message.session] = max(
            message.order, self._superseders.get(message.session, 0)
        )
        known = self._by_id.get(message.id) if message.id is not None else None
        if known is not None and not known.answered:
            message.pending = known
            if message.order > known.newest.order:
                known.newest = message
            return
        left_s = header.get("deadline_ms", self.default_deadline_s * 1e3) / 1e3
        pending = message.pending = Pending(message, now + left_s)
        pending.asked = self.episodes.asked(message.policy, header.get("version"), now)
        if message.id is not None:
            self._by_id[message.id] = pending
        self._by_body[message.body] = pending
        self._open += 1
        self._taken += 1
        heapq.heappush(self._deadlines, (pending.deadline, self._taken, pending))

    def _check_answer(self, command: ToRobot, asked_now: SentMessage | None, now: float) -> None:
        envelope = plain(command.envelope)
        message = self._messages.get(envelope[1])
        if message is None:
            raise Violation(1, f"a second answer to {envelope[1]!r}: {command.header}")
        if envelope != [message.sender, message.tag, b""]:
            raise Violation(2, f"the answer to {message.tag!r} has the envelope {envelope}")
        header = _as_sent(command.header)
        if header.get("id") != message.id:
            raise Violation(2, f"{message.id} was answered as {header.get('id')}")
        payload = b"".join(plain(command.payload))
        word = header["kind"] if header["kind"] != "error" else header["code"]
        self.digest = zlib.crc32(b"%s%s%.9f" % (message.tag, word.encode(), now), self.digest)
        if message.kind == "infer":
            self.outcomes[word] += 1
            self._check_final(message, header, payload, now)
        elif message is not asked_now:
            raise Violation(1, f"{message.kind} was answered later")
        del self._messages[message.tag]

    def _check_final(
        self, message: SentMessage, header: Header, payload: bytes, now: float
    ) -> None:
        pending = message.pending
        if pending is None or pending.answered:
            raise Violation(1, f"{message.tag!r} was answered twice: {header}")
        if pending.newest is not message:
            raise Violation(2, f"{message.id} was answered to an older message than its newest")
        pending.answered = True
        self._open -= 1
        late_s = now - max(pending.deadline, self._woke_at)
        if late_s > LATE_S:
            raise Violation(1, f"{message.id} was answered {late_s * 1e3:.0f} ms too late")
        if header["kind"] == "result":
            self._check_result(message, payload)
            self.episodes.answered(
                message.episode, pending.asked, header.get("version"), payload, now
            )
        elif not self._is_plausible(message, pending, header, now):
            raise Violation(1, f"{message} was answered without cause: {header}")

    def _check_result(self, message: SentMessage, payload: bytes) -> None:
        policy, _, body = payload.partition(b"|")
        wanted = message.policy.encode() if message.policy is not None else policy
        if wanted == policy.partition(b"@")[0]:
            wanted = policy  # one of its versions
        if (policy, body) != (wanted, message.body) or not body.startswith(b"good"):
            raise Violation(2, f"{message.body!r} for {wanted!r} was answered by {payload!r}")

    def _check_attempt(self, command: ToWorker, now: float) -> None:
        header = _as_sent(command.header)
        body = b"".join(plain(command.payload))
        pending = self._by_body.get(body)
        if pending is None or pending.answered:
            raise Violation(1, f"{header['id']} was given to a worker though it was answered")
        pending.attempts += 1
        self.given.append(body)
        if not pending.attempts <= min(header["attempt"], MAX_ATTEMPTS):
            raise Violation(1, f"attempt {header['attempt']} is number {pending.attempts}")
        if header["deadline_ms"] <= 0 or pending.deadline <= now:
            raise Violation(1, f"{header['id']} is given to a worker after its deadline")

    def _is_plausible(
        self, message: SentMessage, pending: Pending, header: Header, now: float
    ) -> bool:
        code = header["code"]
        expired = now >= pending.deadline
        served = self._served_at
        recent = {name for name, at in served.items() if now - at < FORGOTTEN_S} or set(served)
        bases = {base_of(name) for name in served}
        causes: dict[str, bool] = {
            "superseded": self._superseders.get(message.session, 0) > message.order,
            "cancelled": message.session in self._resets,
            "deadline_exceeded": expired or pending.attempts > 0,
            "no_worker": expired,
            "worker_loading": expired,
            "worker_lost": pending.attempts == MAX_ATTEMPTS,
            "overloaded": header.get("retry_after_ms", 0) > 0,
            "unknown_policy": message.policy is not None
            and message.policy not in {*served, *bases},
            "ambiguous_policy": message.policy is None and len(set(map(base_of, recent))) > 1,
            "draining": self.is_stopping,
            "message_too_large": not pending.attempts,
            "protocol_error": not message.body
            or (message.body.startswith(b"garbled") and pending.attempts > 0),
            "policy_failed": self._is_answer_too_large(message) and pending.attempts > 0,
            "bad_observation": message.body.startswith(b"bad") and pending.attempts > 0,
        }
        return bool(causes.get(code, False))

    def _is_answer_too_large(self, message: SentMessage) -> bool:
        """The simulated workers answer their policy's name, a bar and what was asked."""
        if self._core is None or message.body.startswith(b"bloated"):
            return self._core is not None
        longest = max(map(len, self._core.pool.by_policy), default=0)
        return len(message.body) + longest + 1 > self._core.config.limits.max_bytes

    def _check_nobody_waits(self, now: float) -> None:
        deadlines = self._deadlines
        while deadlines and deadlines[0][2].answered:
            heapq.heappop(deadlines)
        if deadlines and now - max(deadlines[0][0], self._woke_at) > LATE_S:
            raise Violation(1, f"{deadlines[0][2].newest.id} has waited past its deadline")
        if self._core is not None and self._core.in_hand != self._open:
            raise Violation(1, f"{self._core.in_hand} in hand, {self._open} were not answered")
