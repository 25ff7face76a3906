"""The seats of a fleet: Ray actors that hold one process each."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.fleet.commands import broker_words, gateway_words, worker_words
from scripts.fleet.config import FleetConfig, Place
from scripts.fleet.seat import Look, Seat

logger = logging.getLogger("fleet")

BROKERS, GATEWAY = "broker:", "gateway:"  # how groups that are no policies begin
_A_LITTLE = 0.001  # of a machine's own resource, which every process there may have
_LONGEST = 400  # characters of a reason


class RaySeat(Seat):
    """A seat that knows its machine."""

    def see(self, after: int) -> tuple[Look, str]:
        """What `look` says, and the machine's address with the start of Ray's id for it."""
        import ray

        context = ray.get_runtime_context()
        return self.look(after), f"{ray.util.get_node_ip_address()}/{context.get_node_id()[:6]}"


@dataclass(slots=True)
class Held:
    """One seat: its actor, the answer that it owes, and how many log lines it has told."""

    actor: Any
    owed: Any
    lines: int = 0


@dataclass(frozen=True)
class Seen:
    """A seat has answered."""

    name: str
    life: int
    look: Look
    node: str


@dataclass(frozen=True)
class Lost:
    """A seat is gone, or could not be made."""

    name: str
    life: int
    reason: str


class Crew:
    """Makes, asks and removes seats. Only one thread may use it."""

    def __init__(self, ray: Any, config: FleetConfig, namespace: str) -> None:
        """None is there yet."""
        self._ray, self._config, self._namespace = ray, config, namespace
        self._seats: dict[tuple[str, int], Held] = {}

    def groups(self) -> list[str]:
        """All that may have members: policies, brokers and the gateway."""
        brokers = [f"{BROKERS}{name}" for name, each in self._config.brokers.items() if each.run]
        gateway = [f"{GATEWAY}main"] if self._config.gateway.run else []
        return [*self._config.policies, *brokers, *gateway]

    def open(self, name: str, life: int) -> None:
        """Make a seat, wherever there is room, and start the member's process in it."""
        group = name.rpartition("-")[0]
        module, words, place = self._process(group)
        log = Path(self._config.logs, self._config.name, f"{name.replace(':', '-')}.log")
        wanted = {**place.resources}
        actor = (
            self._ray.remote(RaySeat)
            .options(
                name=f"{name}.{life}",
                namespace=self._namespace,
                lifetime="detached",
                num_cpus=place.num_cpus,
                num_gpus=place.num_gpus,
                resources=wanted,
                label_selector=place.labels or None,
                # Ray would fill one machine after the other, and one death could take them all.
                scheduling_strategy="DEFAULT" if place.labels else "SPREAD",
                max_restarts=0,
            )
            .remote(module, words, str(log))
        )
        self._seats[name, life] = Held(actor, actor.see.remote(0))

    def adopt(self, name: str, life: int) -> None:
        """Take over a seat that an earlier director has made."""
        actor = self._ray.get_actor(f"{name}.{life}", namespace=self._namespace)
        self._seats[name, life] = Held(actor, actor.see.remote(0))

    def drain(self, name: str, life: int) -> None:
        """Ask the process to end."""
        held = self._seats.get((name, life))
        if held is not None:
            held.actor.drain.remote()

    def close(self, name: str, life: int) -> None:
        """Remove a seat; its process, if there still is one, is killed by the kernel."""
        held = self._seats.pop((name, life), None)
        if held is not None:
            self._ray.kill(held.actor)

    def look(self) -> Iterator[Seen | Lost]:
        """What the seats have to tell; each that has answered is asked again."""
        owed = {held.owed: key for key, held in self._seats.items()}
        if not owed:
            return
        done, _ = self._ray.wait(list(owed), num_returns=len(owed), timeout=0)
        for each in done:
            (name, life), held = owed[each], self._seats[owed[each]]
            try:
                look, node = self._ray.get(each)
            except self._ray.exceptions.ActorUnavailableError:
                held.owed = held.actor.see.remote(held.lines)  # a moment's trouble of the network
                continue
            except self._ray.exceptions.RayError as error:
                yield Lost(name, life, brief(error))
                continue
            held.lines = look.after + len(look.lines)
            held.owed = held.actor.see.remote(held.lines)
            yield Seen(name, life, look, node)

    def wanted(self, group: str) -> dict[str, Any]:
        """What a process of a group takes of its machine."""
        _, _, place = self._process(group)
        asked = {"num_cpus": place.num_cpus, "num_gpus": place.num_gpus, **place.resources}
        named = {name: amount for name, amount in asked.items() if amount}
        return {"resources": named, "labels": place.labels}

    def _process(self, group: str) -> tuple[str, list[str], Place]:
        """A group's module, what it is told, and where it may run."""
        config = self._config
        if group.startswith(BROKERS):
            name = group.removeprefix(BROKERS)
            broker = config.brokers[name]
            return "broker", broker_words(config, name), at_host(broker, broker.host)
        if group.startswith(GATEWAY):
            first = next(iter(config.brokers.values()))
            return "broker.gateway", gateway_words(config), at_host(config.gateway, first.host)
        return "worker", worker_words(config, group), config.policies[group]


def at_host(place: Place, host: str) -> Place:
    """The place of what has to run at an address: that machine, if nothing else is said."""
    if place.labels or place.resources or host == "localhost" or host.startswith("127."):
        return place
    return Place(place.num_cpus, place.num_gpus, {f"node:{host}": _A_LITTLE}, {})


def brief(error: Exception) -> str:
    """The reason in one of Ray's errors, which have many lines."""
    text = str(getattr(error, "cause", None) or error)
    return " ".join(text.split())[:_LONGEST]
