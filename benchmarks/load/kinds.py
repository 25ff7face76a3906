"""Kinds of robots, by how often they ask and how long an answer may take to be of use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A robot that asks every `period_s` seconds, and can use an answer for `deadline_s`.

    A period of zero: it asks again as soon as it has its answer.
    """

    name: str
    period_s: float
    deadline_s: float


def by_chunk(name: str, rate_hz: float, horizon: int, used: int) -> Kind:
    """A robot that asks after `used` of a chunk's `horizon` actions, and runs on in the rest."""
    return Kind(name, used / rate_hz, (horizon - used) / rate_hz)


# The public models' chunks and rates. The second ALOHA asks late: what it sees is fresher when it
# moves, and there is less time for an answer.
MIXED = (
    by_chunk("aloha, 25 of 50 at 50 Hz", 50.0, 50, 25),
    by_chunk("aloha, 40 of 50 at 50 Hz", 50.0, 50, 40),
    by_chunk("droid, 8 of 15 at 15 Hz", 15.0, 15, 8),
    by_chunk("libero, 5 of 10 at 10 Hz", 10.0, 10, 5),
)


def population(load: float, capacity: float, kinds: Sequence[Kind] = MIXED) -> list[Kind]:
    """As many robots, of all kinds in turn, as ask `load` times `capacity` requests a second."""
    robots: list[Kind] = []
    asked = 0.0
    while asked < load * capacity:
        kind = kinds[len(robots) % len(kinds)]
        robots.append(kind)
        asked += 1.0 / kind.period_s
    return robots
