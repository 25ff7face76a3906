"""The chaos monkey: a table of faults, and someone who inflicts them one after another."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from scripts.local.deployment import Deployment, Place
from scripts.local.link import Link

Victim = Place | Link


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong for one victim and is put right after a while."""

    name: str
    victims: Callable[[Deployment], Sequence[Victim]]
    begin: Callable[[Any], object]
    end: Callable[[Any], object]
    seconds: tuple[float, float]  # between them: from, to


def _broker(stage: Deployment) -> Sequence[Victim]:
    return [stage.broker]


def _workers(stage: Deployment) -> Sequence[Victim]:
    return stage.workers


def _robot_links(stage: Deployment) -> Sequence[Victim]:
    return stage.robot_links


def _worker_links(stage: Deployment) -> Sequence[Victim]:
    return stage.worker_links


# Some last longer than the broker's patience: a worker silent for 1 s is suspect, and ZeroMQ
# itself gives a worker's connection up after 3 s.
FAULTS = (
    Fault("kill worker", _workers, Place.kill, Place.start, (0.0, 1.0)),
    Fault("freeze worker", _workers, Place.freeze, Place.thaw, (0.1, 2.5)),
    Fault("kill broker", _broker, Place.kill, Place.start, (0.0, 0.3)),
    Fault("freeze broker", _broker, Place.freeze, Place.thaw, (0.1, 1.5)),
    Fault("robots late", _robot_links, Link.slow, Link.heal, (0.5, 1.5)),
    Fault("robots frozen", _robot_links, Link.freeze, Link.heal, (0.1, 1.5)),
    Fault("robots cut", _robot_links, Link.cut, Link.heal, (0.0, 0.0)),
    Fault("robots reset", _robot_links, Link.reset, Link.heal, (0.0, 0.0)),
    Fault("robots halved", _robot_links, Link.halve, Link.heal, (0.3, 0.3)),
    Fault("worker late", _worker_links, Link.slow, Link.heal, (0.5, 1.5)),
    Fault("worker cut off", _worker_links, Link.freeze, Link.heal, (0.1, 4.0)),
    Fault("worker cut", _worker_links, Link.cut, Link.heal, (0.0, 0.0)),
    Fault("worker reset", _worker_links, Link.reset, Link.heal, (0.0, 0.0)),
    Fault("worker halved", _worker_links, Link.halve, Link.heal, (0.3, 0.3)),
)


@dataclass
class Harm:
    """One fault that was done, to whom and when (`time.monotonic()`)."""

    fault: Fault
    victim: Victim
    begun: float
    until: float


@dataclass
class Monkey:
    """Begins a fault every `pause_s` or so, in shuffled rounds so that none is left out.

    Several go on at once, but never two for one victim. Call `act` often, and `calm` at last.
    """

    stage: Deployment
    dice: random.Random
    pause_s: float
    done: list[Harm] = field(default_factory=list)
    _going_on: list[Harm] = field(default_factory=list)
    _deck: list[Fault] = field(default_factory=list)
    _next: float = 0.0

    def act(self) -> None:
        """Begin and end what is due."""
        now = time.monotonic()
        for harm in [harm for harm in self._going_on if harm.until <= now]:
            self._end(harm)
        if now >= self._next:
            self._next = now + self.dice.uniform(0.5, 1.5) * self.pause_s
            self._begin(now)

    def calm(self) -> None:
        """Put everything right."""
        for harm in list(self._going_on):
            self._end(harm)

    def counts(self) -> dict[str, int]:
        """How often each fault was done."""
        done = Counter(harm.fault.name for harm in self.done)
        return {fault.name: done[fault.name] for fault in FAULTS}

    def _begin(self, now: float) -> None:
        self._deck = self._deck or self.dice.sample(FAULTS, len(FAULTS))
        fault = self._deck.pop()
        busy = {id(harm.victim) for harm in self._going_on}
        free = [victim for victim in fault.victims(self.stage) if id(victim) not in busy]
        if not free:
            self._deck.insert(0, fault)
            return
        victim = self.dice.choice(free)
        harm = Harm(fault, victim, now, now + self.dice.uniform(*fault.seconds))
        fault.begin(victim)
        self._going_on.append(harm)

    def _end(self, harm: Harm) -> None:
        self._going_on.remove(harm)
        harm.fault.end(harm.victim)
        harm.until = time.monotonic()
        self.done.append(harm)
