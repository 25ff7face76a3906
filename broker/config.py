"""The broker's settings, with their types; `conf/broker.yaml` has their meaning and defaults."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import conf
from client.wire import LONGEST_MS

_MOST = {"s": LONGEST_MS / 1e3, "ms": LONGEST_MS}  # the wire's limit, by unit
_STATED: Any = OmegaConf.to_container(OmegaConf.load(Path(conf.__file__).parent / "broker.yaml"))
_LIMITS: dict[str, int] = _STATED["limits"]
_TIMERS: dict[str, float] = {key: float(value) for key, value in _STATED["timers"].items()}


@dataclass
class Limits:
    """What the broker holds at most; together they bound its memory."""

    max_bytes: int = _LIMITS["max_bytes"]
    max_requests: int = _LIMITS["max_requests"]
    max_total_bytes: int = _LIMITS["max_total_bytes"]
    max_requests_per_robot: int = _LIMITS["max_requests_per_robot"]
    max_bytes_per_robot: int = _LIMITS["max_bytes_per_robot"]
    max_workers: int = _LIMITS["max_workers"]
    default_deadline_s: float = _LIMITS["default_deadline_s"]


@dataclass
class Timers:
    """Intervals and periods, in milliseconds."""

    heartbeat_ms: float = _TIMERS["heartbeat_ms"]
    suspect_ms: float = _TIMERS["suspect_ms"]
    shortest_lease_ms: float = _TIMERS["shortest_lease_ms"]
    drain_ms: float = _TIMERS["drain_ms"]


@dataclass
class BrokerConfig:
    """All settings of `python -m broker`."""

    frontend: str = _STATED["frontend"]
    backend: str = _STATED["backend"]
    keys: str | None = _STATED["keys"]
    insecure: bool = _STATED["insecure"]
    log_level: str = _STATED["log_level"]
    log_format: str = _STATED["log_format"]
    limits: Limits = field(default_factory=Limits)
    timers: Timers = field(default_factory=Timers)

    def check(self) -> None:
        """Check what types cannot express: ranges, addresses, and settings that depend on others.

        Raises:
            ValueError: a setting is not valid; the message names it and says what is expected.
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
    """Can only this machine reach it? No, if it is a name or an interface that we don't know."""
    address = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if endpoint.startswith("ipc://") or address in ("localhost", "lo"):
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
