"""The fleet's settings, with their types; `conf/fleet.yaml` has their meaning and defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import conf
from broker.config import BrokerConfig
from client.names import full_name, is_full_name
from client.wire import MAX_NAME
from conf.compose import ConfigError, compose
from conf.flags import LARGEST_PORT

_STATED: Any = OmegaConf.to_container(OmegaConf.load(Path(conf.__file__).parent / "fleet.yaml"))
_SCALING, _RESTARTS, _RAY = _STATED["scaling"], _STATED["restarts"], _STATED["ray"]
# What the fleet itself tells a worker or a broker.
_OURS = {
    "worker": ("name", "version", "broker"),
    "broker": ("frontend", "backend", "policies"),
    "gateway": ("broker",),
}


@dataclass
class Place:
    """What a process takes of its machine, and which machine may have it."""

    num_cpus: float = 0.0
    num_gpus: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)


@dataclass
class PolicySettings(Place):
    """One policy: how its workers are started, and how many there may be."""

    worker: list[str] = field(default_factory=list)
    version: str | None = None
    min: int = 1
    max: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 1.0


@dataclass
class BrokerSettings(Place):
    """One broker: where it is reached, and whether the fleet runs it."""

    host: str = "127.0.0.1"
    frontend: int = 8000
    backend: int = 8001
    run: bool = True
    settings: list[str] = field(default_factory=list)


@dataclass
class GatewaySettings(Place):
    """The gateway: whether the fleet runs one, and its settings."""

    run: bool = False
    settings: list[str] = field(default_factory=list)


@dataclass
class ScalingSettings:
    """When workers are added and taken away, in seconds."""

    longest_wait_s: float = _SCALING["longest_wait_s"]
    up_after_s: float = _SCALING["up_after_s"]
    down_after_s: float = _SCALING["down_after_s"]
    idle_s: float = _SCALING["idle_s"]
    cool_down_s: float = _SCALING["cool_down_s"]


@dataclass
class RestartSettings:
    """How processes that ended are started again."""

    first_s: float = _RESTARTS["first_s"]
    longest_s: float = _RESTARTS["longest_s"]
    tries: int = _RESTARTS["tries"]
    stable_s: float = _RESTARTS["stable_s"]
    drain_s: float = _RESTARTS["drain_s"]


@dataclass
class RaySettings:
    """The Ray cluster that the fleet runs on."""

    address: str | None = _RAY["address"]
    timeout_s: float = _RAY["timeout_s"]
    num_cpus: int | None = _RAY["num_cpus"]
    num_gpus: int | None = _RAY["num_gpus"]
    object_store_mb: int = _RAY["object_store_mb"]
    dashboard: bool = _RAY["dashboard"]


@dataclass
class FleetConfig:
    """All settings of `python -m scripts.fleet`."""

    name: str = _STATED["name"]
    key: str | None = _STATED["key"]
    logs: str = _STATED["logs"]
    policies: dict[str, PolicySettings] = field(default_factory=dict)
    brokers: dict[str, BrokerSettings] = field(default_factory=dict)
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    scaling: ScalingSettings = field(default_factory=ScalingSettings)
    restarts: RestartSettings = field(default_factory=RestartSettings)
    ray: RaySettings = field(default_factory=RaySettings)

    def served(self, policy: str) -> str:
        """The full name that a policy's workers serve, such as aloha@2."""
        return full_name(policy, self.policies[policy].version)

    def check(self) -> None:
        """Check what types cannot express.

        Raises:
            ValueError: a setting is not valid; the message names it and says what is expected.
        """
        if not self.name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"name is {self.name!r}: letters, digits, - and _ are expected")
        for section in ("scaling", "restarts"):
            for key, value in vars(getattr(self, section)).items():
                if not 0 < value < 1e6:
                    raise ValueError(f"{section}.{key} is {value}: a number above 0 is expected")
        if self.ray.object_store_mb < 75:
            raise ValueError(
                f"ray.object_store_mb is {self.ray.object_store_mb}: Ray takes no less than 75"
            )
        if not 0 < self.ray.timeout_s < 1e4:
            raise ValueError(f"ray.timeout_s is {self.ray.timeout_s}: a number above 0 is expected")
        for name, policy in self.policies.items():
            _check_policy(f"policies.{name}", name, policy)
        seen: dict[tuple[str, int], str] = {}
        for name, broker in self.brokers.items():
            _check_broker(f"brokers.{name}", broker)
            for port in (broker.frontend, broker.backend):
                other = seen.setdefault((broker.host, port), name)
                if other != name:
                    raise ValueError(
                        f"brokers.{name} and brokers.{other} both have port {port} of "
                        f"{broker.host}: give each two ports of its own, or leave one out"
                    )
        _check_place("gateway", self.gateway)

    def check_commands(self) -> None:
        """Compose what each worker and broker will be told, so that a mistake is told at once.

        Raises:
            ConfigError: a setting is unknown or wrong, or there is nothing to run.
        """
        from scripts.fleet.commands import broker_words, gateway_words, worker_words

        if not self.policies:
            raise ConfigError(
                "policies has none: say which in a file, as in `up file=fleet.yaml` "
                "(docs/fleet.md has one)"
            )
        if not self.brokers:
            raise ConfigError("brokers has none: workers need one to connect to")
        for name in self.policies:
            _compose("worker", f"policies.{name}.worker", worker_words(self, name))
        for name, broker in self.brokers.items():
            if broker.run:
                _compose("broker", f"brokers.{name}.settings", broker_words(self, name))
        if self.gateway.run:
            _compose("gateway", "gateway.settings", gateway_words(self))


def _compose(kind: str, where: str, words: list[str]) -> None:
    """Compose the settings of a process that will be started.

    The gateway's are checked where it is started only: its own packages may not be here.
    """
    from worker.config import WorkerConfig

    schemas: dict[str, type[Any]] = {"worker": WorkerConfig, "broker": BrokerConfig}
    if kind not in schemas:
        return
    try:
        compose(kind, schemas[kind], words)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_policy(where: str, name: str, policy: PolicySettings) -> None:
    if not 0 < len(name) <= MAX_NAME or not name.replace("-", "_").isidentifier():
        raise ValueError(
            f"{where}: a policy's name has letters, digits, - and _, and {MAX_NAME} of them at most"
        )
    if not is_full_name(full_name(name, policy.version)):
        raise ValueError(f"{where}.version is {policy.version!r}: a text without @ is expected")
    if not 0 <= policy.min <= policy.max or policy.max < 1 or policy.max > 1000:
        raise ValueError(
            f"{where}: min is {policy.min} and max is {policy.max}; 0 <= min <= max, and "
            "max from 1 to 1000 are expected"
        )
    _check_place(where, policy)
    _check_ours("worker", f"{where}.worker", policy.worker)


def _check_broker(where: str, broker: BrokerSettings) -> None:
    for key in ("frontend", "backend"):
        if not 0 < getattr(broker, key) <= LARGEST_PORT:
            raise ValueError(f"{where}.{key} is {getattr(broker, key)}: a port is expected")
    if broker.frontend == broker.backend:
        raise ValueError(f"{where}: frontend and backend are the same port, and need two")
    _check_place(where, broker)
    _check_ours("broker", f"{where}.settings", broker.settings)


def _check_place(where: str, place: Place) -> None:
    asked = {"num_cpus": place.num_cpus, "num_gpus": place.num_gpus}
    for key, value in {**asked, **place.resources}.items():
        if not 0 <= value < 1e6:
            raise ValueError(f"{where}: {key} is {value}: a number from 0 on is expected")


def _check_ours(kind: str, where: str, words: list[str]) -> None:
    for word in words:
        if word.lstrip("+~").partition("=")[0] in _OURS[kind]:
            raise ValueError(f"{where} has {word}: the fleet itself says that, leave it out")
