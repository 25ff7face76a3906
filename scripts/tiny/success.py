"""How certain a share of successes is, and the table of an evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

from scripts.tiny.scene import SUCCESS, TRANSFER
from scripts.tiny.trial import CONDITIONS, Outcome

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


@dataclass(frozen=True)
class Row:
    """What all episodes of one task under one condition came to."""

    task: str
    condition: str
    success: Share
    """The task's full reward was reached."""
    let_go: Share | None
    """At the end the left gripper alone held the cube; None for tasks without a cube."""
    rewards: tuple[int, ...]
    """Episodes whose best reward was 0, 1, 2, 3 and 4."""
    mean_batch: float
    """Requests that the model computed together, on average."""


def share(outcomes: Sequence[Outcome], least_reward: int = SUCCESS) -> Share:
    """The share of `outcomes` whose best reward was at least `least_reward`."""
    return Share(sum(o.reward >= least_reward for o in outcomes), len(outcomes))


def share_let_go(outcomes: Sequence[Outcome]) -> Share:
    """The share of `outcomes` that ended with the cube in the left gripper alone."""
    return Share(sum(o.let_go for o in outcomes), len(outcomes))


def rows(outcomes: Sequence[Outcome]) -> list[Row]:
    """A row for each task and condition, in the order of `CONDITIONS`."""
    found = dict.fromkeys((o.task, o.condition) for o in outcomes)
    order = list(CONDITIONS)
    return [
        _row(task, condition, [o for o in outcomes if (o.task, o.condition) == (task, condition)])
        for task, condition in sorted(found, key=lambda pair: (pair[0], order.index(pair[1])))
    ]


def _row(task: str, condition: str, outcomes: Sequence[Outcome]) -> Row:
    requests = [ms for o in outcomes for ms in o.model_ms]
    # To the nanosecond no two batches take the same time, and all requests of one are told it.
    batches = len(set(requests))
    return Row(
        task,
        condition,
        share(outcomes),
        share_let_go(outcomes) if task == TRANSFER.name else None,
        tuple(sum(o.reward == r for o in outcomes) for r in range(SUCCESS + 1)),
        len(requests) / batches if batches else 0.0,
    )


def markdown(table: Sequence[Row]) -> str:
    """The table as people read it."""
    lines = [
        "| task | condition | success | let go | best reward 0, 1, 2, 3, 4 |",
        "|---|---|---|---|---|",
    ]
    for row in table:
        rewards = ", ".join(map(str, row.rewards))
        let_go = "" if row.let_go is None else row.let_go
        lines.append(f"| {row.task} | {row.condition} | {row.success} | {let_go} | {rewards} |")
    return "\n".join(lines) + "\n"


def as_json(table: Sequence[Row]) -> list[dict[str, Any]]:
    """The table for programs: bounds from 0 to 1, and what each condition varies."""
    return [
        {
            "task": row.task,
            "condition": asdict(CONDITIONS[row.condition]),
            "success": _share_as_json(row.success),
            "let_go": None if row.let_go is None else _share_as_json(row.let_go),
            "rewards": list(row.rewards),
            "mean_batch": round(row.mean_batch, 2),
        }
        for row in table
    ]


def _share_as_json(share: Share) -> dict[str, Any]:
    low, high = share.interval
    return {
        "successes": share.successes,
        "of": share.of,
        "low": round(low, 4),
        "high": round(high, 4),
    }
