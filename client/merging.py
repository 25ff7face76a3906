"""Ways to join a new chunk of actions to what is left of the old ones.

A chunk has a start on the plan's clock, which counts the actions that the robot has executed: its
row `i` is due when the clock reads `start + i`. The clock may stand between two rows, where a robot
was slowed down; rows are then interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np

Array = Any  # numpy's generic types cannot be spelt at run time on Python 3.8

_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Chunk:
    """Actions, float64 (rows, dims), the first of them due at `start`."""

    start: float
    actions: Array

    @property
    def end(self) -> float:
        """When its last row is due."""
        return self.start + len(self.actions) - 1

    def at(self, positions: Array) -> Array:
        """The actions (n, dims) due at `positions` (n,), each from `start` to `end`."""
        places = np.clip(np.asarray(positions) - self.start, 0.0, len(self.actions) - 1)
        nearest = np.rint(places)
        places = np.where(np.abs(places - nearest) < _TOLERANCE, nearest, places)
        below = np.floor(places).astype(np.intp)
        above = np.minimum(below + 1, len(self.actions) - 1)
        share = (places - below)[:, None]
        exact = self.actions[below]
        return np.where(share > 0.0, (1.0 - share) * exact + share * self.actions[above], exact)

    def row(self, position: float) -> Array:
        """The action (dims,) due at `position`, from `start` to `end`."""
        place = position - self.start
        nearest = round(place)
        if abs(place - nearest) < _TOLERANCE:
            return self.actions[nearest]
        return self.at([position])[0]

    def rest(self, position: float) -> Array:
        """The rows from `position` on, (n, dims); none where it is beyond the end."""
        count = int(np.floor(self.end - position + _TOLERANCE)) + 1
        return self.at(position + np.arange(max(0, count)))


def replaced(chunks: Sequence[Chunk]) -> Array:
    """The newest chunk as it is. `chunks`: oldest first, in each of these functions."""
    return chunks[-1].actions


def averaged(chunks: Sequence[Chunk], weights: tuple[float, float]) -> Array:
    """The newest chunk, averaged with the one before where both have a row.

    `weights`: of the old one and of the new one.
    """
    if len(chunks) < 2:
        return chunks[-1].actions
    old, new = chunks[-2:]
    positions = new.start + np.arange(len(new.actions))
    shared = (positions >= old.start) & (positions <= old.end + _TOLERANCE)
    mixed = (weights[0] * old.at(positions) + weights[1] * new.actions) / sum(weights)
    return np.where(shared[:, None], mixed, new.actions)


def ensembled(chunks: Sequence[Chunk], decay: float) -> Array:
    """Every row the mean of all chunks that have it, the oldest weighing most.

    The temporal ensembling of ACT (arXiv 2304.13705): weights exp(-decay * i), i = 0 the oldest.
    """
    new = chunks[-1]
    positions = new.start + np.arange(len(new.actions))
    total = np.zeros(new.actions.shape)
    weight = np.zeros((len(positions), 1))
    age = np.zeros((len(positions), 1))
    for chunk in chunks:
        has_it = (positions >= chunk.start) & (positions <= chunk.end + _TOLERANCE)
        share = np.where(has_it[:, None], np.exp(-decay * age), 0.0)
        total += share * chunk.at(positions)
        weight += share
        age += has_it[:, None]
    return total / weight
