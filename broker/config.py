"""The broker's settings, typed; `conf/broker.yaml` holds their defaults and says what they do."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from client.wire import LONGEST_MS

_MOST = {"s": LONGEST_MS / 1e3, "ms": LONGEST_MS}  # by unit, as the wire allows


@dataclass
class Limits:
    """What the broker holds at most; together they bound its memory."""

    max_bytes: int = 16_000_000
    max_requests: int = 10_000
    max_total_bytes: int = 1_000_000_000
    max_requests_per_robot: int = 2
    max_bytes_per_robot: int = 32_000_000
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
    keys: str | None = None
    insecure: bool = False
    log_level: str = "info"
    log_format: str = "text"
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
                most = _MOST.get(key.rpartition("_")[2], 10**12)
                if not 0 < value <= most:
                    raise ValueError(
                        f"{section}.{key} is {value}: "
                        f"a number above 0 is expected, {most:g} at most"
                    )
        for key in ("frontend", "backend"):
            for endpoint in addresses(getattr(self, key)) or [""]:
                self._check_address(key, endpoint)
        shared = set(addresses(self.frontend)) & set(addresses(self.backend))
        if shared:
            raise ValueError(
                f"frontend and backend are the same, {', '.join(sorted(shared))}: robots and "
                "workers need two ports"
            )
        if self.keys and self.insecure:
            raise ValueError("keys=... and insecure=true contradict each other: choose one")
        if self.log_format not in ("text", "json"):
            raise ValueError(f"log_format is {self.log_format!r}: text or json")
        for key in ("max_bytes_per_robot", "max_total_bytes"):
            if getattr(self.limits, key) < self.limits.max_bytes:
                raise ValueError(
                    f"limits.{key} is {getattr(self.limits, key)}: it must be at least "
                    f"limits.max_bytes, {self.limits.max_bytes}, or nothing would be taken"
                )
        if self.timers.heartbeat_ms < 1.0:
            raise ValueError(f"timers.heartbeat_ms is {self.timers.heartbeat_ms}: at least 1")
        if self.timers.suspect_ms < 2 * self.timers.heartbeat_ms:
            raise ValueError("timers.suspect_ms must be at least twice timers.heartbeat_ms")

    def _check_address(self, key: str, endpoint: str) -> None:
        if not endpoint.startswith(("tcp://", "ipc://")):
            raise ValueError(
                f"{key} is {endpoint!r}: tcp://ADDRESS:PORT or ipc://PATH, several with commas "
                "between them"
            )
        port = endpoint.rpartition(":")[2]
        if endpoint.startswith("tcp://") and not (port.isdecimal() and 0 < int(port) < 65_536):
            raise ValueError(
                f"{key} is {endpoint!r}: tcp://ADDRESS:PORT, with a port from 1 to 65535"
            )
        if not (self.keys or self.insecure or _stays_here(endpoint)):
            raise ValueError(
                f"{key}={endpoint} is open to other machines, and without keys to everyone: "
                "make keys (python -m scripts.keys make NAME --role robot) and say "
                "keys=FOLDER, or say insecure=true in a network that you trust"
            )


def addresses(setting: str) -> list[str]:
    """The addresses of a `frontend` or `backend` setting: one, or several with commas between."""
    return [address.strip() for address in setting.split(",") if address.strip()]


def nearby_address(epoch: int) -> str:
    """Where a broker in this life of it also listens, for the workers on its own host.

    The name is an abstract one: it lies in the network namespace, in no file system, and ends with
    the broker's process. The epoch in it makes it this broker's alone.
    """
    return f"ipc://@zmq-policy-broker-{epoch:x}"


def _stays_here(endpoint: str) -> bool:
    """Can only this machine reach it? A name or interface that we don't know counts as no."""
    address = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if endpoint.startswith("ipc://") or address in ("localhost", "lo"):
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
