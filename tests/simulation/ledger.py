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
from client.wire import Frame, Header, RequestId, decode_header, encode_header
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
class Question:
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


@dataclass(slots=True, eq=False)
class Pending:
    """A request in the core's hands, asked once or several times over."""

    newest: Question
    deadline: float  # the core's clock
    attempts: int = 0
    answered: bool = False


@dataclass
class Ledger:
    """What robots asked of one broker after another; raises `Violation` 1 and 2."""

    default_deadline_s: float
    outcomes: Counter[str] = field(default_factory=Counter)
    digest: int = 0  # of everything that went to robots, to compare two runs
    is_stopping: bool = False
    _core: Core | None = None
    _questions: dict[bytes, Question] = field(default_factory=dict)
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
        self._served_at, self._alive = {}, set()
        self._by_id, self._by_body, self._deadlines = {}, {}, []
        for question in self._questions.values():
            question.pending = None

    def asked(self, question: Question) -> None:
        """A robot sends a message."""
        self._questions[question.tag] = question

    def arrived(self, tag: bytes, sender: bytes) -> None:
        """The message reached the broker over the connection of this routing id."""
        self._questions[tag].sender = sender

    def check(self, event: Event, commands: Sequence[Command], now: float, woke: bool) -> None:
        """Check what the core makes of an event; `woke`: its clock had jumped before it."""
        if woke:
            self._woke_at = now
        self._note_served(now)
        question = None
        if isinstance(event, RobotMessage):
            question = self._questions[plain(event.envelope)[1]]
            self._note(question, event.header, now)
        for command in commands:
            if isinstance(command, ToRobot):
                self._check_answer(command, question, now)
            elif isinstance(command, ToWorker) and command.header["kind"] == "infer":
                self._check_attempt(command, now)
        if question is not None and question.kind != "infer" and question.tag in self._questions:
            raise Violation(1, f"{question.kind} was not answered at once")
        self._check_nobody_waits(now)

    def _note_served(self, now: float) -> None:
        if self._core is not None:
            for policy, workers in self._core.pool.by_policy.items():
                if workers or policy in self._alive:
                    self._served_at[policy] = now
                (self._alive.add if workers else self._alive.discard)(policy)

    def _note(self, question: Question, header: Header, now: float) -> None:
        if question.kind == "reset":
            self._resets.add(question.session)
        if question.kind != "infer":
            return
        self._superseders[question.session] = max(
            question.order, self._superseders.get(question.session, 0)
        )
        known = self._by_id.get(question.id) if question.id is not None else None
        if known is not None and not known.answered:
            question.pending = known
            if question.order > known.newest.order:
                known.newest = question
            return
        left_s = header.get("deadline_ms", self.default_deadline_s * 1e3) / 1e3
        pending = question.pending = Pending(question, now + left_s)
        if question.id is not None:
            self._by_id[question.id] = pending
        self._by_body[question.body] = pending
        self._open += 1
        self._taken += 1
        heapq.heappush(self._deadlines, (pending.deadline, self._taken, pending))

    def _check_answer(self, command: ToRobot, asked_now: Question | None, now: float) -> None:
        envelope = plain(command.envelope)
        question = self._questions.get(envelope[1])
        if question is None:
            raise Violation(1, f"a second answer to {envelope[1]!r}: {command.header}")
        if envelope != [question.sender, question.tag, b""]:
            raise Violation(2, f"the answer to {question.tag!r} has the envelope {envelope}")
        header = _as_sent(command.header)
        if header.get("id") != question.id:
            raise Violation(2, f"{question.id} was answered as {header.get('id')}")
        payload = b"".join(plain(command.payload))
        word = header["kind"] if header["kind"] != "error" else header["code"]
        self.digest = zlib.crc32(b"%s%s%.9f" % (question.tag, word.encode(), now), self.digest)
        if question.kind == "infer":
            self.outcomes[word] += 1
            self._check_final(question, header, payload, now)
        elif question is not asked_now:
            raise Violation(1, f"{question.kind} was answered later")
        del self._questions[question.tag]

    def _check_final(self, question: Question, header: Header, payload: bytes, now: float) -> None:
        pending = question.pending
        if pending is None or pending.answered:
            raise Violation(1, f"{question.tag!r} was answered twice: {header}")
        if pending.newest is not question:
            raise Violation(2, f"{question.id} was answered to an older message than its newest")
        pending.answered = True
        self._open -= 1
        late_s = now - max(pending.deadline, self._woke_at)
        if late_s > LATE_S:
            raise Violation(1, f"{question.id} was answered {late_s * 1e3:.0f} ms too late")
        if header["kind"] == "result":
            self._check_result(question, payload)
        elif not self._is_plausible(question, pending, header, now):
            raise Violation(1, f"{question} was answered without cause: {header}")

    def _check_result(self, question: Question, payload: bytes) -> None:
        policy, _, body = payload.partition(b"|")
        wanted = question.policy.encode() if question.policy is not None else policy
        if (policy, body) != (wanted, question.body) or not body.startswith(b"good"):
            raise Violation(2, f"{question.body!r} for {wanted!r} was answered by {payload!r}")

    def _check_attempt(self, command: ToWorker, now: float) -> None:
        header = _as_sent(command.header)
        body = b"".join(plain(command.payload))
        pending = self._by_body.get(body)
        if pending is None or pending.answered:
            raise Violation(1, f"{header['id']} was given to a worker though it was answered")
        pending.attempts += 1
        if not pending.attempts <= min(header["attempt"], MAX_ATTEMPTS):
            raise Violation(1, f"attempt {header['attempt']} is number {pending.attempts}")
        if header["deadline_ms"] <= 0 or pending.deadline <= now:
            raise Violation(1, f"{header['id']} is given to a worker after its deadline")

    def _is_plausible(
        self, question: Question, pending: Pending, header: Header, now: float
    ) -> bool:
        code = header["code"]
        expired = now >= pending.deadline
        served = self._served_at
        recent = [at for at in served.values() if now - at < FORGOTTEN_S] or served
        causes: dict[str, bool] = {
            "superseded": self._superseders.get(question.session, 0) > question.order,
            "cancelled": question.session in self._resets,
            "deadline_exceeded": expired or pending.attempts > 0,
            "no_worker": expired,
            "worker_loading": expired,
            "worker_lost": pending.attempts == MAX_ATTEMPTS,
            "overloaded": header.get("retry_after_ms", 0) > 0,
            "unknown_policy": question.policy is not None and question.policy not in served,
            "ambiguous_policy": question.policy is None and len(recent) > 1,
            "draining": self.is_stopping,
            "message_too_large": not pending.attempts,
            "protocol_error": not question.body
            or (question.body.startswith(b"garbled") and pending.attempts > 0),
            "policy_failed": self._is_answer_too_large(question) and pending.attempts > 0,
            "bad_observation": question.body.startswith(b"bad") and pending.attempts > 0,
        }
        return bool(causes.get(code, False))

    def _is_answer_too_large(self, question: Question) -> bool:
        """The simulated workers answer their policy's name, a bar and what was asked."""
        if self._core is None or question.body.startswith(b"bloated"):
            return self._core is not None
        return len(question.body) + 2 > self._core.config.limits.max_bytes

    def _check_nobody_waits(self, now: float) -> None:
        deadlines = self._deadlines
        while deadlines and deadlines[0][2].answered:
            heapq.heappop(deadlines)
        if deadlines and now - max(deadlines[0][0], self._woke_at) > LATE_S:
            raise Violation(1, f"{deadlines[0][2].newest.id} has waited past its deadline")
        if self._core is not None and self._core.in_hand != self._open:
            raise Violation(1, f"{self._core.in_hand} in hand, {self._open} were not answered")
