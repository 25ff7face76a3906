"""The gateway's settings, with their types; `conf/gateway.yaml` has their meaning and defaults."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import conf
from client.arguments import MAX_BROKERS
from client.wire import LONGEST_MS

_STATED: Any = OmegaConf.to_container(OmegaConf.load(Path(conf.__file__).parent / "gateway.yaml"))


@dataclass
class HttpSettings:
    """Where the page, `/status` and `/metrics` are."""

    listen: str | None = _STATED["http"]["listen"]


@dataclass
class DialectSettings:
    """What every dialect has: where it listens, which policy, and which keys become ours."""

    listen: str | None = None
    policy: str | None = None
    mapping: str | None = None


@dataclass
class OpenpiSettings(DialectSettings):
    """openpi's WebSocket."""

    listen: str | None = _STATED["openpi"]["listen"]


@dataclass
class RoboarenaSettings(DialectSettings):
    """RoboArena's WebSocket; what it says of the robot in its first message."""

    mapping: str | None = _STATED["roboarena"]["mapping"]
    image_resolution: list[int] | None = None
    needs_wrist_camera: bool = _STATED["roboarena"]["needs_wrist_camera"]
    n_external_cameras: int = _STATED["roboarena"]["n_external_cameras"]
    needs_stereo_camera: bool = _STATED["roboarena"]["needs_stereo_camera"]
    needs_session_id: bool = _STATED["roboarena"]["needs_session_id"]
    action_space: str = _STATED["roboarena"]["action_space"]
    bare: bool = _STATED["roboarena"]["bare"]
    sessions: int = _STATED["roboarena"]["sessions"]


@dataclass
class GrootSettings(DialectSettings):
    """GR00T's ZeroMQ."""

    mapping: str | None = _STATED["groot"]["mapping"]
    config_as_text: bool = _STATED["groot"]["config_as_text"]
    idle_s: float = _STATED["groot"]["idle_s"]


@dataclass
class LerobotSettings(DialectSettings):
    """LeRobot's gRPC."""

    mapping: str | None = _STATED["lerobot"]["mapping"]
    fps: float = _STATED["lerobot"]["fps"]
    wait_s: float = _STATED["lerobot"]["wait_s"]
    idle_s: float = _STATED["lerobot"]["idle_s"]


@dataclass
class VlaEvalSettings(DialectSettings):
    """vla-eval's WebSocket."""

    mapping: str | None = _STATED["vla_eval"]["mapping"]
    chunk: int = _STATED["vla_eval"]["chunk"]


@dataclass
class StarvlaSettings(DialectSettings):
    """StarVLA's WebSocket."""

    mapping: str | None = _STATED["starvla"]["mapping"]


@dataclass
class OpenvlaSettings(DialectSettings):
    """OpenVLA's `POST /act`."""

    mapping: str | None = _STATED["openvla"]["mapping"]
    whole_chunk: bool = _STATED["openvla"]["whole_chunk"]
    idle_s: float = _STATED["openvla"]["idle_s"]


@dataclass
class SglangSettings(DialectSettings):
    """SGLang's action API over HTTP."""

    mapping: str | None = _STATED["sglang"]["mapping"]
    idle_s: float = _STATED["sglang"]["idle_s"]


@dataclass
class GatewayConfig:
    """All settings of `python -m broker.gateway`."""

    broker: Any = _STATED["broker"]
    key: str | None = _STATED["key"]
    api_keys: str | None = _STATED["api_keys"]
    insecure: bool = _STATED["insecure"]
    origins: list[str] = field(default_factory=list)
    deadline_s: float = _STATED["deadline_s"]
    max_bytes: int = _STATED["max_bytes"]
    max_robots: int = _STATED["max_robots"]
    send_s: float = _STATED["send_s"]
    handshake_s: float = _STATED["handshake_s"]
    tracing: str | None = _STATED["tracing"]
    tap: str | None = _STATED["tap"]
    log_level: str = _STATED["log_level"]
    log_format: str = _STATED["log_format"]
    http: HttpSettings = field(default_factory=HttpSettings)
    openpi: OpenpiSettings = field(default_factory=OpenpiSettings)
    roboarena: RoboarenaSettings = field(default_factory=RoboarenaSettings)
    groot: GrootSettings = field(default_factory=GrootSettings)
    lerobot: LerobotSettings = field(default_factory=LerobotSettings)
    vla_eval: VlaEvalSettings = field(default_factory=VlaEvalSettings)
    starvla: StarvlaSettings = field(default_factory=StarvlaSettings)
    openvla: OpenvlaSettings = field(default_factory=OpenvlaSettings)
    sglang: SglangSettings = field(default_factory=SglangSettings)

    def brokers(self) -> list[str]:
        """The brokers' addresses in order; one that is named twice counts once.

        Raises:
            ValueError: `broker` is something else.
        """
        given = self.broker.split(",") if isinstance(self.broker, str) else self.broker
        if isinstance(given, Sequence) and all(isinstance(each, str) for each in given):
            addresses = [each.strip() for each in given]
            if 1 <= len(addresses) <= MAX_BROKERS and all(map(_is_address, addresses)):
                return list(dict.fromkeys(addresses))
        raise ValueError(
            f"broker is {self.broker!r}: tcp://HOST:PORT or ipc://PATH, or a list of 1 to "
            f"{MAX_BROKERS} of them"
        )

    def dialects(self) -> dict[str, DialectSettings]:
        """The dialects that are spoken, by the names of their sections."""
        return {
            name: section
            for name, section in vars(self).items()
            if isinstance(section, DialectSettings) and section.listen is not None
        }

    def check(self) -> None:
        """Check what types cannot express: ranges, addresses, and settings that depend on others.

        Raises:
            ValueError: a setting is not valid; the message names it and says what is expected.
        """
        if self.log_level.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
            raise ValueError(f"log_level is {self.log_level!r}: debug, info, warning or error")
        if self.log_format not in ("text", "json"):
            raise ValueError(f"log_format is {self.log_format!r}: text or json")
        self.brokers()
        for key in ("deadline_s", "send_s", "handshake_s"):
            if not 0 < getattr(self, key) <= LONGEST_MS / 1e3:
                raise ValueError(
                    f"{key} is {getattr(self, key)}: seconds from more than 0 to a day are expected"
                )
        for key, most in (("max_bytes", 10**12), ("max_robots", 10_000)):
            if not 0 < getattr(self, key) <= most:
                raise ValueError(
                    f"{key} is {getattr(self, key)}: a whole number from 1 to {most} is expected"
                )
        if self.tracing and not self.tracing.startswith(("http://", "https://")):
            raise ValueError(f"tracing is {self.tracing!r}: http://HOST:4318/v1/traces, or null")
        if self.tap is not None and not self.tap.startswith(("ipc://", "tcp://")):
            raise ValueError(
                f"tap is {self.tap!r}: the broker's, ipc://PATH or tcp://127.0.0.1:PORT"
            )
        if self.api_keys and self.insecure:
            raise ValueError("api_keys=... and insecure=true contradict each other: choose one")
        self._check_dialects()
        self._check_listeners()

    def _check_dialects(self) -> None:
        for name in ("groot", "lerobot", "openvla", "sglang"):
            if not 0 < getattr(self, name).idle_s <= LONGEST_MS / 1e3:
                raise ValueError(
                    f"{name}.idle_s is {getattr(self, name).idle_s}: seconds from more than 0 to "
                    "a day are expected"
                )
        if not 0 < self.lerobot.fps <= 1000:
            raise ValueError(f"lerobot.fps is {self.lerobot.fps}: from more than 0 to 1000")
        if not 0 < self.lerobot.wait_s <= LONGEST_MS / 1e3:
            raise ValueError(f"lerobot.wait_s is {self.lerobot.wait_s}: seconds, more than 0")
        if self.vla_eval.chunk < 1:
            raise ValueError(f"vla_eval.chunk is {self.vla_eval.chunk}: 1 or more are expected")
        if not 0 < self.roboarena.sessions <= self.max_robots:
            raise ValueError(
                f"roboarena.sessions is {self.roboarena.sessions}: from 1 to max_robots"
            )

    def _check_listeners(self) -> None:
        listeners = {f"{name}.listen": each.listen for name, each in self.dialects().items()}
        if self.http.listen is not None:
            listeners["http.listen"] = self.http.listen
        if not listeners:
            raise ValueError("nothing to serve: set the `listen` of http or of a dialect")
        seen: dict[str, str] = {}
        for key, listen in listeners.items():
            host, _ = host_and_port(key, listen or "")
            if listen in seen:
                raise ValueError(f"{key} and {seen[listen]} are the same, {listen}")
            seen[listen or ""] = key
            if not (self.api_keys or self.insecure or _stays_here(host)):
                raise ValueError(
                    f"{key}={listen} is open to other machines, and without Api-Keys to everyone: "
                    "say api_keys=FILE (docs/gateway.md), or insecure=true in a network that you "
                    "trust"
                )


def host_and_port(key: str, listen: str) -> tuple[str, int]:
    """The host and the port of `HOST:PORT`, such as `[::1]:8003`; `key` names the setting.

    Raises:
        ValueError: it is not of that form.
    """
    host, colon, port = listen.rpartition(":")
    host = host.strip("[]")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65_536):
        raise ValueError(f"{key} is {listen!r}: HOST:PORT, with a port from 1 to 65535")
    return host, int(port)


def _is_address(text: str) -> bool:
    return text.startswith(("tcp://", "ipc://"))


def _stays_here(host: str) -> bool:
    """Can only this machine reach it? No, if it is a name that we don't know."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
