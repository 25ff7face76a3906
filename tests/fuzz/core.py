"""Any bytes as a history: messages, deaths and time, fed to the broker's core.

Whatever peers say and in whatever order, the core never raises, stays within its bounds, never
asks to be woken at once for ever, sends only headers that its peers can read, and gives every
request one final answer, at the latest when it is first woken after the deadline.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from broker.config import BrokerConfig, Limits
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
from client.body import encode_body
from client.errors import PolicyError
from client.wire import (
    FROM_CLIENT,
    FROM_WORKER,
    LONGEST_MS,
    MAX_INT,
    TO_CLIENT,
    TO_WORKER,
    Frame,
    Header,
    RequestId,
    decode_header,
    encode_header,
)
from tests.fuzz.choices import Choices

LIMITS = Limits(
    max_bytes=100,
    max_requests=6,
    max_total_bytes=300,
    max_requests_per_robot=4,
    max_bytes_per_robot=200,
    max_workers=3,
)
MOST_EVENTS = 200
_PASSING_S = (0.0, 0.0001, 0.01, 0.05, 0.1, 0.3, 1.1, 2.1, 11.0)
_WAKES = 12  # that are obeyed while time passes; then the process stalls
_EPOCH = 7
_POLICIES = ("a", "b", "aa", None)
_VERSIONS = ("a", "a@1", "a@2", None)
_TOLD = (None, "a@1", "a@2", "a", "b@1")
_PLANS: Sequence[dict[str, Any]] = (
    {},
    {"stable": "a@1", "candidate": "a@2", "share": 0.5},
    {"stable": "a@2", "move": True},
    {"stable": "a", "candidate": "a@1", "share": 1.0, "move": True},
    {"retire": ["a@1"]},
    {"stable": None, "retire": ["a", "a@2"]},
    {"stable": [1], "candidate": {}},
)
_DEADLINES = (None, 0.0, 1e-9, 40.0, 500.0, 3000.0, LONGEST_MS)


@dataclass
class Request:
    """A robot's message that wants an answer, or several with one id while it is in hand."""

    header: Header
    deadline: float
    size: int
    closed: bool = False


class History:
    """Plays one input."""

    def __init__(self, data: bytes, names: Sequence[str | None] = _POLICIES) -> None:
        """`names`: of policies; the fourth is none."""
        self._choices = Choices(data)
        self._names = names
        self._now = 1000.0
        self._core = Core(BrokerConfig(limits=LIMITS), _EPOCH, self._now)
        self._requests: list[Request] = []
        self._held: list[tuple[bytes, RequestId, int]] = []  # by workers: who, what, attempt
        self._beat = 0
        self._lives = [0, 0, 0, 0]
        self._dead: set[bytes] = set()
        self._acts: Sequence[Callable[[], None]] = (
            self._pass,
            self._infer,
            self._infer,
            self._ask,
            self._hello,
            self._ready,
            self._heartbeat,
            self._result,
            self._result,
            self._goodbye,
            self._die,
            self._rumour,
            self._anything_from_a_robot,
            self._anything_from_a_worker,
            self._stop,
        )

    def play(self) -> None:
        """Feed it all, then let time pass until everything must be answered."""
        for _ in range(MOST_EVENTS):
            if self._choices.exhausted:
                break
            self._choices.pick(self._acts)()
        while waiting := [request for request in self._requests if not request.closed]:
            self._now = max(self._now, min(request.deadline for request in waiting)) + 0.1
            self._handle(Tick())
            _require(
                all(request.closed or request.deadline > self._now for request in waiting),
                "a request has no answer 100 ms after its deadline",
            )
        _require(self._core.in_hand == 0, f"{self._core.in_hand} requests are left")

    # What happens.

    def _pass(self) -> None:
        until = self._now + self._choices.pick(_PASSING_S)
        for _ in range(_WAKES):
            wake = self._core.wake_at()
            if wake > until:
                break
            self._now = max(self._now, wake)
            self._handle(Tick())
        self._now = until
        self._handle(Tick())

    def _infer(self) -> None:
        choices = self._choices
        fields: Header = {"session": choices.pick(("", "x")), "priority": choices.below(3)}
        client = bytes([65 + choices.below(4)]) * 16
        if client[:1] != b"D":  # D gives no ids
            fields["id"] = [client, choices.pick((0, 1, 2, 3, 4, MAX_INT))]
        for name, options in (("policy", self._names), ("deadline_ms", _DEADLINES)):
            value = choices.pick(options)
            if value is not None:
                fields[name] = value
        self._from_robot("infer", fields)

    def _ask(self) -> None:
        fields: Header = {"session": self._choices.pick(("", "x"))}
        policy = self._choices.pick(self._names)
        if policy:
            fields["policy"] = policy
        if self._choices.below(2):
            fields["id"] = [b"A" * 16, 0]
        self._from_robot(
            self._choices.pick(("reset", "metadata", "ping", "status", "rollout")), fields
        )

    def _hello(self) -> None:
        choices = self._choices
        worker = self._worker()
        fields: Header = {
            "incarnation": bytes(16),
            "policy": choices.pick(self._names[:3]),
            "digest": choices.pick(("", "", "", "other")),
            "state": choices.pick(("warming", "warming", "ready", "draining")),
        }
        self._from_worker(worker, "hello", fields)
        if choices.below(4):  # mostly the worker is warm
            self._from_worker(worker, "ready", {"slots": 1 + choices.below(3)})

    def _ready(self) -> None:
        milliseconds = self._choices.pick((0.0, 1e-6, 5.0, 200.0, 1e5, LONGEST_MS))
        fields: Header = {"slots": self._choices.pick((1, 2, 64)), "inference_ms": milliseconds}
        self._from_worker(self._worker(), "ready", fields)

    def _heartbeat(self) -> None:
        worker = self._worker()
        held = [[list(id), attempt] for owner, id, attempt in self._held if owner == worker]
        fields: Header = {
            "n": self._choices.pick((0, self._beat, MAX_INT)),
            "ids": held[self._choices.below(3) :],
            "state": self._choices.pick(("ready", "ready", "ready", "draining")),
        }
        self._from_worker(worker, "heartbeat", fields)

    def _result(self) -> None:
        kind = self._choices.pick(("result", "result", "failure"))
        if not self._held or not self._choices.below(8):
            self._from_worker(self._worker(), kind, {"id": [b"A" * 16, 1], "attempt": 1})
            return
        held = self._held[self._choices.below(len(self._held))]
        if self._choices.below(8):  # else it will come twice
            self._held.remove(held)
        worker, id, attempt = held
        self._from_worker(worker, kind, {"id": list(id), "attempt": attempt})

    def _goodbye(self) -> None:
        self._from_worker(self._worker(), "goodbye", {})

    def _die(self) -> None:
        number = self._choices.below(len(self._lives))
        self._dead.add(self._name(number))
        self._lives[number] += 1

    def _rumour(self) -> None:
        worker = self._worker()
        event = ConnectionLost((worker,)) if self._choices.below(2) else WorkerUnreachable(worker)
        self._handle(event)

    def _anything_from_a_robot(self) -> None:
        try:
            header = decode_header(self._choices.some(self._choices.byte()), FROM_CLIENT)
        except PolicyError:
            return
        self._robot_says(header)

    def _anything_from_a_worker(self) -> None:
        try:
            header = decode_header(self._choices.some(self._choices.byte()), FROM_WORKER)
        except PolicyError:
            return
        self._handle(WorkerMessage(self._worker(), header, (b"metadata",)))

    def _stop(self) -> None:
        if self._choices.byte() == 255:
            self._handle(Stop())

    # How it is said.

    def _name(self, number: int) -> bytes:
        return b"w%d.%d" % (number, self._lives[number])

    def _worker(self) -> bytes:
        return self._name(self._choices.below(len(self._lives)))

    def _from_robot(self, kind: str, fields: Header) -> None:
        header = encode_header({"v": 1, "kind": kind, **fields})
        self._robot_says(decode_header(header, FROM_CLIENT))

    def _robot_says(self, header: Header) -> None:
        deadline = self._now + header.get("deadline_ms", LIMITS.default_deadline_s * 1e3) / 1e3
        sizes = (1, 1, 1, 0, 60, LIMITS.max_bytes, LIMITS.max_bytes + 1)
        size = self._choices.pick(sizes) if header["kind"] == "infer" else 0
        payload: tuple[bytes, ...] = (bytes(size),) if size else ()
        if self._names is _VERSIONS:
            turn = len(self._requests)
            if header["kind"] == "infer" and (told := _TOLD[turn % len(_TOLD)]):
                header.setdefault("version", told)
            if header["kind"] == "rollout":
                plan = {"policy": "a", **_PLANS[turn % len(_PLANS)]}
                payload = tuple(map(bytes, encode_body(plan, buffers=False)))
        request = Request(dict(header), deadline, size)
        for older in self._requests:
            same = "id" in header and older.header.get("id") == header["id"]
            if same and header["kind"] == "infer" and not older.closed:
                request = older  # which of the envelopes gets the one answer is the core's matter
        number = len(self._requests).to_bytes(2, "big")
        self._requests.append(request)
        sender = header["id"].client if "id" in header else b"anonymous"
        self._handle(RobotMessage(sender, (number, b""), header, payload))

    def _from_worker(self, worker: bytes, kind: str, fields: Header) -> None:
        epoch = _EPOCH + (self._choices.byte() == 255)
        header = encode_header({"v": 1, "kind": kind, "epoch": epoch, **fields})
        self._handle(WorkerMessage(worker, decode_header(header, FROM_WORKER), (b"metadata",)))

    def _handle(self, event: Event) -> None:
        """Do as the shell does, and check all that comes of it."""
        pending = [event]
        for each in pending:
            commands = self._core.handle(each, self._now)
            _require(len(commands) < 100, f"{len(commands)} commands for one event")
            for command in commands:
                unreachable = self._carry_out(command)
                if unreachable is not None:
                    pending.append(unreachable)
            _require(len(pending) < 100, "consequences without end")
        in_hand = {id(each): each.size for each in self._requests if not each.closed}
        _require(self._core.in_hand == len(in_hand) <= LIMITS.max_requests, "requests in hand")
        total = sum(in_hand.values())
        _require(total <= LIMITS.max_total_bytes, "too many bytes in hand")
        _require(self._core.wake_at() > self._now, "it wants to be woken at once, for ever")

    def _carry_out(self, command: Command) -> Event | None:
        if isinstance(command, ToRobot):
            header = decode_header(encode_header(command.header), TO_CLIENT)
            request = self._requests[int.from_bytes(_raw(command.envelope[0]), "big")]
            _require(not request.closed, "a second answer")
            _require(header.get("id") == request.header.get("id"), "an answer to another id")
            request.closed = True
        elif isinstance(command, ToWorker):
            header = decode_header(encode_header(command.header), TO_WORKER)
            if command.worker in self._dead:
                return WorkerUnreachable(command.worker)
            if header["kind"] == "heartbeat":
                self._beat = header["n"]
            elif header["kind"] == "infer":
                self._held.append((command.worker, header["id"], header["attempt"]))
        return None


def _raw(frame: Frame) -> bytes:
    return frame if isinstance(frame, bytes) else frame.bytes


def play(data: bytes) -> None:
    """Play one input: with policies of their own, and with versions of one.

    Raises:
        AssertionError: a promise was broken.
        Exception: any other would have ended the broker.
    """
    for names in (_POLICIES, _VERSIONS):
        History(data, names).play()


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
