"""The settings of a rollout, with their types; `conf/rollout.yaml` has meanings and defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

import conf
from client.names import base_of, full_name, is_full_name
from client.wire import MAX_NAME
from conf.compose import ConfigError, compose
from conf.flags import LARGEST_PORT

_STATED: Any = OmegaConf.to_container(OmegaConf.load(Path(conf.__file__).parent / "rollout.yaml"))
_SHADOW, _BOUNDS = _STATED["shadow"], _STATED["bounds"]
_OURS = ("name", "version", "checkpoint")  # what this command itself tells a worker
_MOST_WORKERS = 64


@dataclass
class ShadowSettings:
    """How many requests of the old version are put to the new one as well."""

    requests: int = _SHADOW["requests"]
    within_s: float = _SHADOW["within_s"]
    share: float = _SHADOW["share"]


@dataclass
class Bounds:
    """By how much the new version may be worse than the old one."""

    failed_share: float = _BOUNDS["failed_share"]
    failures: int = _BOUNDS["failures"]
    latency_factor: float | None = _BOUNDS["latency_factor"]
    latency_slack_ms: float = _BOUNDS["latency_slack_ms"]
    latency_s: float = _BOUNDS["latency_s"]
    latency_requests: int = _BOUNDS["latency_requests"]
    largest_difference: float | None = _BOUNDS["largest_difference"]
    mean_difference: float | None = _BOUNDS["mean_difference"]


@dataclass
class RolloutConfig:
    """All settings of `python -m scripts.rollout`."""

    policy: str | None = _STATED["policy"]
    version: str | None = _STATED["version"]
    stable: str | None = _STATED["stable"]
    checkpoint: str | None = _STATED["checkpoint"]
    worker: list[str] = field(default_factory=list)
    workers: int = _STATED["workers"]
    ready: int | None = _STATED["ready"]
    ready_within_s: float = _STATED["ready_within_s"]
    logs: str = _STATED["logs"]
    broker: list[str] = field(default_factory=list)
    key: str | None = _STATED["key"]
    tap: str | None = _STATED["tap"]
    shares: list[float] = field(default_factory=list)
    step_s: float = _STATED["step_s"]
    step_episodes: int = _STATED["step_episodes"]
    step_longest_s: float = _STATED["step_longest_s"]
    episode_s: float = _STATED["episode_s"]
    shadow: ShadowSettings = field(default_factory=ShadowSettings)
    bounds: Bounds = field(default_factory=Bounds)
    report: str | None = _STATED["report"]

    @property
    def ready_wanted(self) -> int:
        """How many workers of the new version must be ready before robots get it."""
        return self.ready if self.ready is not None else max(1, self.workers)

    def worker_words(self, version: str) -> list[str]:
        """The command line of a worker of the new version."""
        checkpoint = [] if self.checkpoint is None else [f"checkpoint={self.checkpoint}"]
        return [*self.worker, *checkpoint, f"name={self.policy}", f"version={version}"]

    def check(self) -> None:
        """Check what types cannot express.

        Raises:
            ValueError: a setting is not valid; the message names it and says what is expected.
        """
        if not self.policy or "@" in self.policy or len(self.policy) > MAX_NAME:
            raise ValueError(
                f"policy is {self.policy!r}: the name that robots ask for is expected, without a "
                "version, such as policy=aloha"
            )
        if self.version is not None and not is_full_name(full_name(self.policy, self.version)):
            raise ValueError(
                f"version is {self.version!r}: a text without @ is expected, such as version=2"
            )
        if self.stable is not None and base_of(self.stable) != self.policy:
            raise ValueError(
                f"stable is {self.stable!r}: a version of {self.policy} is expected, such as "
                f"{self.policy}@1, or {self.policy}"
            )
        if not self.broker:
            raise ValueError("broker is empty: at least one HOST:PORT is expected")
        for address in self.broker:
            _check_address(address)
        _check_shares(self.shares)
        if not 0 <= self.workers <= _MOST_WORKERS:
            raise ValueError(f"workers is {self.workers}: 0 to {_MOST_WORKERS} are expected")
        least = {"ready": 1, "step_episodes": 0, "shadow.requests": 1}
        least |= {"bounds.failures": 1, "bounds.latency_requests": 2}
        for key, value in least.items():
            given = self._value(key)
            if given is not None and given < value:
                raise ValueError(f"{key} is {given}: {value} or more is expected")
        for key in ("ready_within_s", "step_longest_s", "shadow.within_s"):
            if not 0 < self._value(key) < math.inf:
                raise ValueError(f"{key} is {self._value(key)}: seconds above 0 are expected")
        for key in (
            *("step_s", "episode_s", "bounds.failed_share", "bounds.latency_factor"),
            *("bounds.latency_slack_ms", "bounds.latency_s"),
            *("bounds.largest_difference", "bounds.mean_difference"),
        ):
            given = self._value(key)
            if given is not None and not 0 <= given < math.inf:
                raise ValueError(f"{key} is {given}: a number from 0 on is expected")
        if not 0 < self.shadow.share <= 1:
            raise ValueError(
                f"shadow.share is {self.shadow.share}: above 0 and up to 1 is expected"
            )
        for word in self.worker:
            if word.lstrip("+~").partition("=")[0] in _OURS:
                raise ValueError(
                    f"worker has {word}: leave it out, as this command itself says that"
                )

    def check_worker(self, version: str) -> None:
        """Compose what each worker will be told, so that a mistake is told before any is started.

        Raises:
            ConfigError: a setting is unknown or wrong.
        """
        from worker.config import WorkerConfig

        if not self.workers:
            return
        try:
            compose("worker", WorkerConfig, self.worker_words(version))
        except ConfigError as error:
            raise ConfigError(f"worker: {error}") from error

    def _value(self, key: str) -> Any:
        section, _, name = key.rpartition(".")
        return getattr(getattr(self, section) if section else self, name)


def _check_address(address: str) -> None:
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) <= LARGEST_PORT:
        raise ValueError(f"broker has {address!r}: HOST:PORT is expected, such as localhost:8000")


def _check_shares(shares: list[float]) -> None:
    if not shares or shares[-1] != 1.0 or sorted(set(shares)) != shares or shares[0] <= 0.0:
        raise ValueError(
            f"shares is {shares}: growing numbers above 0 are expected, the last of them 1"
        )
