"""Who takes turns, under what conditions, for how long: the peers alternate in rounds."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.transport.cells import Cell, Cells, Conditions
from benchmarks.transport.hosts import HERE, Site
from benchmarks.transport.pacing import Turn
from benchmarks.transport.teams import Team
from scripts.local.processes import Processes

_FEWEST = 10  # requests of a robot in a turn, however slow its pace
_OTHER_ROUNDS = 3  # conditions that only illustrate get a third of the rounds


@dataclass(frozen=True)
class Plan:
    """What is measured. `rounds` of turns of `seconds` where one robot runs pinned."""

    peers: Sequence[str]
    sizes: Sequence[str]
    robots: Sequence[int]
    rates_hz: Sequence[float]
    pinned: Sequence[bool]
    seconds: float
    rounds: int
    split: bool = False  # have the robots report their requests' stages
    congestion: str = ""  # what the site's hosts use, for the tables

    def conditions(self, robots: int, size: str) -> list[Conditions]:
        """All for the same processes; the pinned ones come first."""
        return [
            Conditions(robots, pinned, size, rate, self.congestion)
            for pinned in self.pinned
            for rate in self.rates_hz
        ]

    def rounds_of(self, conditions: Conditions) -> int:
        """Most for those whose figures count."""
        counts = conditions.robots == 1 and conditions.pinned
        return self.rounds if counts else math.ceil(self.rounds / _OTHER_ROUNDS)

    def turns(self) -> int:
        """How many turns all peers take together."""
        rounds = (
            self.rounds_of(conditions)
            for robots in self.robots
            for size in self.sizes
            for conditions in self.conditions(robots, size)
        )
        return len(self.peers) * sum(rounds)

    def turn(self, conditions: Conditions) -> Turn:
        """One turn under these conditions."""
        period = 1.0 / conditions.rate_hz if conditions.rate_hz else 0.0
        seconds = max(self.seconds, _FEWEST * period)
        return Turn(conditions.rate_hz, seconds, split=self.split)


def measure(
    plan: Plan, logs: Path, progress: Callable[[str, int], None], site: Site = HERE
) -> Cells:
    """Carry it out, telling `progress` what is happening and how many more turns are done.

    Raises:
        ProcessError: a peer did not start, ended or got stuck.
    """
    cells: Cells = {}
    for robots, size in itertools.product(plan.robots, plan.sizes):
        with Processes(logs / f"{robots}-{size}") as processes:
            progress(f"starting {robots} of each", 0)
            teams = [Team(peer, robots, size, processes, site) for peer in plan.peers]
            for team in teams:
                team.wait_connected()
            for conditions, team in _order(plan, plan.conditions(robots, size), teams):
                cell = cells.setdefault((conditions, team.name), Cell())
                cell.turns.append(team.take(plan.turn(conditions)))
                progress(f"{conditions.size}, {conditions.pace}, {conditions.robots}", 1)
    return cells


def _order(
    plan: Plan, all_conditions: Sequence[Conditions], teams: Sequence[Team]
) -> Iterator[tuple[Conditions, Team]]:
    """A B C A B C ...: so other work on the machine disturbs all peers equally."""
    pinned: bool | None = None
    for conditions in all_conditions:
        if conditions.pinned != pinned:
            pinned = conditions.pinned
            for team in teams:
                team.place(*_cores(pinned))
        for _ in range(plan.rounds_of(conditions)):
            for team in teams:
                yield conditions, team


def _cores(pinned: bool) -> tuple[set[int], set[int]]:
    """For the robots, and for the rest."""
    allowed = os.sched_getaffinity(0)
    if not pinned:
        return allowed, allowed
    first, second, *_ = sorted(allowed)
    return {first}, {second}
