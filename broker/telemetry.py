"""What the core counts and remembers, in bounded memory and at a microsecond a request."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from broker.events import RobotMessage

MOST_ROBOTS = 256  # remembered
_RECENT = 1024  # latencies kept


@dataclass(slots=True)
class RobotRecord:
    """A client and its last request for actions."""

    name: str = ""
    key: str = ""  # the name of the key that it came with, if there are keys
    policy: str = ""  # as it named it
    seen_at: float = 0.0
    requests: int = 0


@dataclass(slots=True)
class Telemetry:
    """Counters since the start, the robots seen last and the latest latencies.

    Times are the core's, in seconds; latencies are (when, queue_ms, worker_ms).
    """

    started_at: float
    counters: Counter[str] = field(default_factory=Counter)
    robots: dict[bytes, RobotRecord] = field(default_factory=dict)  # the one seen last is last
    latencies: deque[tuple[float, float, float]] = field(
        default_factory=lambda: deque(maxlen=_RECENT)
    )

    def asked(self, client: bytes, message: RobotMessage, now: float) -> None:
        """A robot asked for actions."""
        robot = self.robots.pop(client, None)
        if robot is None:
            robot = RobotRecord()
            if len(self.robots) >= MOST_ROBOTS:
                del self.robots[next(iter(self.robots))]
        robot.name = message.header.get("robot", "")
        robot.key = message.peer
        robot.policy = message.header.get("policy", "")
        robot.seen_at = now
        robot.requests += 1
        self.robots[client] = robot

    def answered(self, queue_ms: float, worker_ms: float, now: float) -> None:
        """A request was answered with a result."""
        self.latencies.append((now, queue_ms, worker_ms))
