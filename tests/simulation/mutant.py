"""A planted bug, and whether the simulation catches it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.simulation.generator import generate
from tests.simulation.shrink import failure

SEEDS = 200  # at most, until a mutant is caught; where the histories change, some need as many

Patch = pytest.MonkeyPatch


class Mutant(NamedTuple):
    """A way to break what is simulated, and which invariants may then be seen violated.

    `first` is where to begin to look: a bug that few histories show is looked for from one of them.
    """

    name: str
    invariants: set[int]
    plant: Callable[[Patch], None]
    first: int = 0


def check_is_caught(mutant: Mutant, patch: Patch) -> None:
    """Plant it, and play seeds until one of them fails as it should."""
    mutant.plant(patch)
    for seed in range(mutant.first, mutant.first + SEEDS):
        violation = failure(generate(seed))
        if violation is not None:
            break
    assert violation is not None
    assert violation.number in mutant.invariants, str(violation)
