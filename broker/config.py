"""The broker's settings, with their types; `conf/broker.yaml` has their meaning and defaults."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import conf
from client.names import is_full_name
from client.wire import LONGEST_MS, MAX_NAME

_MOST = {"s": LONGEST_MS / 1e3, "ms": LONGEST_MS}  # the wire's limit, by unit
_STATED: Any = OmegaConf.to_container(OmegaConf.load(Path(conf.__file__).parent / "broker.yaml"))
_LIMITS: dict[str, int] = _STATED["limits"]
_FAIRNESS: dict[str, Any] = _STATED["fairness"]
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
    max_tap_bytes: int = _LIMITS["max_tap_bytes"]
    max_episodes: int = _LIMITS["max_episodes"]
    episode_idle_s: float = _LIMITS["episode_idle_s"]
    max_tap_listeners: int = _LIMITS["max_tap_listeners"]


@dataclass
class Timers:
    """Intervals and periods, in milliseconds."""

    heartbeat_ms: float = _TIMERS["heartbeat_ms"]
    suspect_ms: float = _TIMERS["suspect_ms"]
    shortest_lease_ms: float = _TIMERS["shortest_lease_ms"]
    drain_ms: float = _TIMERS["drain_ms"]


@dataclass
class FairnessConfig:
    """Whose requests go first, where more is asked for than workers can do."""

    evaluation_share: float = _FAIRNESS["evaluation_share"]
    reserve_live: int = _FAIRNESS["reserve_live"]
    teams: str | None = _FAIRNESS["teams"]


@dataclass
class BrokerConfig:
    """All settings of `python -m broker`."""

    frontend: str = _STATED["frontend"]
    backend: str = _STATED["backend"]
    keys: str | None = _STATED["keys"]
    insecure: bool = _STATED["insecure"]
    nearby: bool = _STATED["nearby"]
    policies: list[str] = field(default_factory=list)
    tap: str | None = _STATED["tap"]
    log_level: str = _STATED["log_level"]
    log_format: str = _STATED["log_format"]
    limits: Limits = field(default_factory=Limits)
    timers: Timers = field(default_factory=Timers)
    fairness: FairnessConfig = field(default_factory=FairnessConfig)

    def check(self) -> None:
        """Check what types cannot express: ranges, addresses, and settings that depend on others.

        Raises:
            ValueError: a setting is not valid; the message names it and says what is expected.
        """
        if self.log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError(f"log_level is {self.log_level!r}: debug, info, warning or error")
        for name in self.policies:
            if not 0 < len(name) <= MAX_NAME or not is_full_name(name):
                raise ValueError(
                    f"policies has {name!r}: NAME or NAME@VERSION, of 1 to {MAX_NAME} characters"
                )
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
        if self.tap is not None:
            self._check_tap(self.tap)
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
        fairness = self.fairness
        if not 0.0 <= fairness.evaluation_share <= 0.5:
            raise ValueError(
                f"fairness.evaluation_share is {fairness.evaluation_share}: from 0 to 0.5"
            )
        if not 0 <= fairness.reserve_live <= 10**6:
            raise ValueError(
                f"fairness.reserve_live is {fairness.reserve_live}: a number of slots, 0 for none"
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

    def _check_tap(self, tap: str) -> None:
        if len(addresses(tap)) != 1:
            raise ValueError(f"tap is {tap!r}: one address is expected, or null for no tap")
        if not tap.startswith(("tcp://", "ipc://")) or tap == "ipc://":
            raise ValueError(f"tap is {tap!r}: ipc://PATH, tcp://127.0.0.1:PORT or null")
        if self.keys and (not tap.startswith("ipc://") or tap.startswith("ipc://@")):
            raise ValueError(
                f"tap={tap} can be read by every user of this machine, whoever has a key: with "
                "keys only a path will do, which this user alone may open (tap=ipc://PATH)"
            )
        if not _stays_here(tap):
            raise ValueError(
                f"tap={tap} is open to other machines: what robots see and do is told there to "
                "whoever comes, so it stays on this one. Say tap=ipc://PATH, and record here "
                "(python -m scripts.record)"
            )
        if tap.startswith("tcp://"):
            self._check_address("tap", tap)
        if tap in {*addresses(self.frontend), *addresses(self.backend)}:
            raise ValueError(f"tap is {tap}, which is the frontend or backend: choose another")


def addresses(setting: str) -> list[str]:
    """The addresses of a `frontend` or `backend` setting: one, or several with commas between."""
    return [address.strip() for address in setting.split(",") if address.strip()]


def nearby_address(epoch: int) -> str:
    """Where this run of the broker also listens, for workers on its own host.

    The name is an abstract one: it lies in the network namespace and in no file system, and ends
    with the broker's process. The epoch in it makes it unique to this run.
    """
    return f"ipc://@zmq-policy-broker-{epoch:x}"


def _stays_here(endpoint: str) -> bool:
    """Whether only this machine can reach it; no, for a name or interface that we don't know."""
    address = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    if endpoint.startswith("ipc://") or address in ("localhost", "lo"):
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
