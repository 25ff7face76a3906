"""How sure a share of successes is, and the table of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from rich.table import Table

from scripts.tiny.rollout import Outcome
from scripts.tiny.scene import SUCCESS

Z = 1.959964  # the normal distribution's 97.5 % quantile


@dataclass(frozen=True)
class Share:
    """So many of so many, with Wilson's 95 % interval."""

    successes: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """Bounds from 0 to 1 (Wilson, "Probable inference", 1927); (0, 1) where nothing ran."""
        if self.of == 0:
            return 0.0, 1.0
        p, n = self.successes / self.of, self.of
        middle = (p + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * sqrt(p * (1 - p) / n + Z**2 / (4 * n**2))
        return max(0.0, middle - half), min(1.0, middle + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.successes} of {self.of} ({100 * low:.0f} to {100 * high:.0f} %)"


def share(outcomes: Sequence[Outcome], least_reward: int = SUCCESS) -> Share:
    """Of `outcomes`, those whose best reward was at least `least_reward`."""
    return Share(sum(o.reward >= least_reward for o in outcomes), len(outcomes))


def share_let_go(outcomes: Sequence[Outcome]) -> Share:
    """Of `outcomes`, those that ended with the cube in the left gripper alone."""
    return Share(sum(o.let_go for o in outcomes), len(outcomes))


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row for each task and condition."""
    result = Table("task", "condition", "success", "let go", "rewards 0 to 4", box=None)
    for task, condition in dict.fromkeys((o.task, o.condition) for o in outcomes):
        row = [o for o in outcomes if (o.task, o.condition) == (task, condition)]
        rewards = " ".join(str(sum(o.reward == r for o in row)) for r in range(SUCCESS + 1))
        let_go = str(share_let_go(row)) if task == "transfer" else ""
        result.add_row(task, condition, str(share(row)), let_go, rewards)
    return result
