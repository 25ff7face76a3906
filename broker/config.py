"""The broker's settings, typed; `conf/broker.yaml` holds their defaults and says what they do."""

from __future__ import annotations

from dataclasses import dataclass, field

from client.wire import LONGEST_MS


@dataclass
class Limits:
    """What the broker holds at most; together they bound its memory."""

    max_bytes: int = 16_000_000
    max_requests: int = 10_000
    max_total_bytes: int = 1_000_000_000
    max_workers: int = 1_000
    default_deadline_s: float = 10.0


@dataclass
class Timers:
    """Milliseconds."""

    heartbeat_ms: float = 100.0
    suspect_ms: float = 1_000.0
    shortest_lease_ms: float = 250.0
    drain_ms: float = 1_000.0


@dataclass
class BrokerConfig:
    """Everything that `python -m broker` can be told."""

    frontend: str = "tcp://127.0.0.1:8000"
    backend: str = "tcp://127.0.0.1:8001"
    log_level: str = "info"
    limits: Limits = field(default_factory=Limits)
    timers: Timers = field(default_factory=Timers)

    def check(self) -> None:
        """Check the ranges that types cannot say.

        Raises:
            ValueError: names the key and what it takes.
        """
        if self.log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError(f"log_level is {self.log_level!r}: debug, info, warning or error")
        for section in ("limits", "timers"):
            for key, value in vars(getattr(self, section)).items():
                if not 0 < value <= max(LONGEST_MS, 1e12):
                    raise ValueError(f"{section}.{key} is {value}: a number above 0 is expected")
        for key in ("frontend", "backend"):
            endpoint = getattr(self, key)
            if not endpoint.startswith(("tcp://", "ipc://")):
                raise ValueError(f"{key} is {endpoint!r}: tcp://ADDRESS:PORT or ipc://PATH")
        if self.frontend == self.backend:
            raise ValueError("frontend and backend are the same: robots and workers need two ports")
        if self.timers.suspect_ms < 2 * self.timers.heartbeat_ms:
            raise ValueError("timers.suspect_ms must be at least twice timers.heartbeat_ms")
