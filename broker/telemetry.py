"""What the core counts and remembers, in bounded memory and at a microsecond a request."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.events import RobotMessage
from broker.shares import USUAL, Lane

MOST_ROBOTS = 256  # remembered
MOST_RULES = 64  # of guards, counted for each policy
_RECENT = 1024  # latencies kept
_UNCOUNTED = 64  # answers, until they are counted by policy and stage
# Stages of an answer's timing that are counted by how long they took. A policy may tell of more.
STAGES = ("queue_ms", "worker_ms", "decode_ms", "wait_ms", "infer_ms", "encode_ms")
# Upper ends, in milliseconds, both belonging; a last one without an end comes behind them.
BUCKETS_MS = (1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1e3, 2.5e3, 5e3, 1e4, 3e4, 6e4)


@dataclass(slots=True)
class RobotRecord:
    """A client and its last request for actions."""

    name: str = ""
    key: str = ""  # the name of the key that it came with, if there are keys
    policy: str = ""  # as the request named it
    seen_at: float = 0.0
    requests: int = 0
    held: int = 0  # control steps without an action, as the robot said last
    timing: Mapping[str, float] = field(default_factory=dict)  # of its last answer, milliseconds


@dataclass(slots=True)
class Stage:
    """How often a stage took how long."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_MS) + 1))
    sum_ms: float = 0.0


@dataclass(slots=True)
class PolicyRecord:
    """A policy's answers: their stages, how many were computed together, and what guards did."""

    stages: dict[str, Stage] = field(default_factory=lambda: {name: Stage() for name in STAGES})
    batches: Counter[int] = field(default_factory=Counter)  # by size, one for each answer
    held: int = 0  # control steps of robots that asked for it, without an action
    clipped: Counter[str] = field(default_factory=Counter)  # actions, by joint and rule
    refused: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Telemetry:
    """Counters since the start, the robots seen last and the latest latencies.

    Times are the core's, in seconds; latencies are (when, queue_ms, worker_ms, policy);
    the policy of an evaluation's is empty.
    """

    started_at: float
    counters: Counter[str] = field(default_factory=Counter)
    robots: dict[bytes, RobotRecord] = field(default_factory=dict)  # the one seen last is last
    policies: dict[str, PolicyRecord] = field(default_factory=dict)
    asked_at: dict[str, float] = field(default_factory=dict)  # by policy, known ones only
    latencies: deque[tuple[float, float, float, str]] = field(
        default_factory=lambda: deque(maxlen=_RECENT)
    )
    _uncounted: list[tuple[bytes, str, Mapping[str, float], int]] = field(default_factory=list)

    def asked(
        self, client: bytes, policy: str | None, message: RobotMessage, size: int, now: float
    ) -> None:
        """A robot asked `policy` for actions, with so many bytes of an observation."""
        self.counters["bytes of observations"] += size
        held = message.header.get("held", 0)
        robot = self.robots.pop(client, None)
        if robot is None:
            robot = RobotRecord(held=held)  # what it held before it came here is not counted
            if len(self.robots) >= MOST_ROBOTS:
                del self.robots[next(iter(self.robots))]
        robot.name = message.header.get("robot", "")
        robot.key = message.peer
        robot.policy = message.header.get("policy", "")
        robot.seen_at = now
        robot.requests += 1
        self.robots[client] = robot
        if held != robot.held:
            # A smaller count is that of a new loop of the same client, which begins at 0.
            more = held - robot.held if held > robot.held else held
            self._policy(policy or robot.policy).held += more
            robot.held = held

    def answered(
        self,
        client: bytes,
        policy: str,
        timing: Mapping[str, float],
        lane: Lane = USUAL,
        *,
        batch: int,
        size: int,
        now: float,
    ) -> None:
        """A request was answered with a result of `size` bytes, one of `batch` computed together.

        `timing` is the answer's, the queue and the worker's time among it. It is only put down
        here: `count_answers` goes through many at once, off the usual request's way.
        """
        whose = "" if lane.is_evaluation else policy
        self.latencies.append((now, timing["queue_ms"], timing["worker_ms"], whose))
        self.counters["bytes of answers"] += size
        self._uncounted.append((client, policy, timing, batch))
        if len(self._uncounted) >= _UNCOUNTED:
            self.count_answers()

    def count_answers(self) -> None:
        """Bring `policies` and the robots' `timing` up to date."""
        for client, policy, timing, batch in self._uncounted:
            robot = self.robots.get(client)
            if robot is not None:
                robot.timing = timing
            record = self._policy(policy)
            record.batches[batch] += 1
            for name, spent_ms in timing.items():
                stage = record.stages.get(name)
                if stage is not None:  # a policy may tell of more
                    stage.counts[bisect_left(BUCKETS_MS, spent_ms)] += 1
                    stage.sum_ms += spent_ms
        self._uncounted.clear()

    def breached(self, policy: str, what: str, breaches: Mapping[str, float]) -> None:
        """Actions broke guards' rules, and were `what`: clipped or refused."""
        record = self._policy(policy)
        counts = record.clipped if what == "clipped" else record.refused
        for rule, count in breaches.items():
            if rule in counts or len(counts) < MOST_RULES:
                counts[rule] += int(count)

    def _policy(self, policy: str) -> PolicyRecord:
        record = self.policies.get(policy)
        if record is None:
            record = self.policies[policy] = PolicyRecord()
        return record
