"""What an operator does with a fleet: start, see, size and stop it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from conf.overrides import ConfigError, nearest
from scripts.fleet.cluster import NoRay, namespace
from scripts.fleet.config import FleetConfig
from scripts.fleet.director import NAME, Director

_MARGIN_S = 30.0  # for what comes beside the drains: Ray's own pace
_LOOK_S = 0.25
_THREADS = 8  # of the director, for whoever asks it


class Fleet:
    """A fleet's director, from an operator's side."""

    def __init__(self, ray: Any, config: FleetConfig, director: Any) -> None:
        """`director` is the handle of its actor."""
        self._ray, self._config, self._director = ray, config, director

    @classmethod
    def start(cls, ray: Any, config: FleetConfig) -> Fleet:
        """Start the director, which outlives this process as long as its cluster runs.

        Raises:
            ConfigError: a fleet of this name runs there, or the cluster cannot hold this one.
            NoRay: the director does not start.
        """
        check_hosts(config, ray.nodes())
        space = namespace(config)
        actor = ray.remote(Director).options(
            name=NAME,
            namespace=space,
            lifetime="detached",
            num_cpus=0,
            max_restarts=-1,
            max_concurrency=_THREADS,
        )
        try:
            director = actor.remote(config, space)
        except ValueError as error:
            raise ConfigError(
                f"name={config.name}: a fleet of this name runs already. Stop it with `down`, or "
                "give this one another name"
            ) from error
        fleet = cls(ray, config, director)
        fleet.state()
        return fleet

    @classmethod
    def find(cls, ray: Any, config: FleetConfig) -> Fleet:
        """The fleet that runs under this name.

        Raises:
            NoRay: there is none on this cluster.
        """
        try:
            director = ray.get_actor(NAME, namespace=namespace(config))
        except ValueError:
            begin = namespace(config).removesuffix(config.name)
            others = sorted(
                each["namespace"].removeprefix(begin)
                for each in ray.util.list_named_actors(all_namespaces=True)
                if each["name"] == NAME and each["namespace"].startswith(begin)
            )
            hint = f"; those that run: {', '.join(others)}" if others else ""
            close = nearest(config.name, others)
            raise NoRay(f"no fleet named {config.name!r} runs there{close or hint}") from None
        return cls(ray, config, director)

    def state(self) -> dict[str, Any]:
        """What `Director.state` says.

        Raises:
            NoRay: the director does not answer.
        """
        state: dict[str, Any] = self._ask(self._director.state.remote())
        return state

    def lines(self, group: str, after: int) -> tuple[list[tuple[str, str]], int]:
        """What `Director.lines` says.

        Raises:
            NoRay: the director does not answer.
        """
        found: tuple[list[tuple[str, str]], int] = self._ask(
            self._director.lines.remote(group, after)
        )
        return found

    def scale(self, policy: str, workers: int | None) -> None:
        """Hold a policy at so many workers; None: let it move between its bounds again.

        Raises:
            NoRay: the director does not answer.
        """
        self._ask(self._director.scale.remote(policy, workers))

    def stop(self, progress: Callable[[dict[str, Any]], None]) -> int:
        """Drain and end everything; returns how many processes had to be killed.

        `progress` is told the state again and again.

        Raises:
            NoRay: the director does not answer.
        """
        self._ask(self._director.stop.remote())
        give_up = time.monotonic() + 3 * self._config.restarts.drain_s + _MARGIN_S
        state = self.state()
        while state["members"] and time.monotonic() < give_up:
            progress(state)
            time.sleep(_LOOK_S)
            state = self.state()
        self.remove()
        return len(state["members"])

    def remove(self) -> None:
        """End what is left of the fleet at once, the director first."""
        space = namespace(self._config)
        named = self._ray.util.list_named_actors(all_namespaces=True)
        names = [each["name"] for each in named if each["namespace"] == space]
        for name in sorted(names, key=lambda each: each != NAME):
            try:
                self._ray.kill(self._ray.get_actor(name, namespace=space))
            except ValueError:
                continue  # it has ended since

    def _ask(self, owed: Any) -> Any:
        limit_s = self._config.ray.timeout_s
        try:
            return self._ray.get(owed, timeout=limit_s)
        except self._ray.exceptions.GetTimeoutError:
            raise NoRay(
                f"the fleet's director has not answered for {limit_s:g} s (ray.timeout_s): does "
                "every machine have our packages, and Ray room for one more process?"
            ) from None
        except self._ray.exceptions.RayError as error:
            raise NoRay(
                f"the fleet's director does not run: {' '.join(str(error).split())}"
            ) from None


def check_hosts(config: FleetConfig, nodes: list[Any]) -> None:
    """Refuse brokers at addresses that the cluster's other machines cannot reach.

    Raises:
        ConfigError: the message says which.
    """
    machines = {node["NodeManagerAddress"] for node in nodes if node["Alive"]}
    for name, broker in config.brokers.items():
        if len(machines) > 1 and (broker.host == "localhost" or broker.host.startswith("127.")):
            raise ConfigError(
                f"brokers.{name}.host is {broker.host}, which no other machine of this cluster can "
                f"reach: give the address of the broker's machine, such as {min(machines)}"
            )
