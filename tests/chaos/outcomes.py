"""What a run under faults has shown: how many answers, errors, and breaches of the promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from scripts.local.load import RIGHT, SILENT, UNTYPED, WRONG, Outcome
from scripts.local.timing import percentile

LATE_S = 0.1  # a client may raise so much after its deadline, and not more

Disturbed = Callable[[Outcome], bool]
Stalled = Callable[[float, float], float]


@dataclass(frozen=True)
class Summary:
    """The count. `wrong`, `lost`, `late` and `untyped` are what must not be.

    lost: neither answer nor error came from `infer`, or the broker was silent beyond the deadline
    though nothing was done to it or to the way there, and the machine ran us. late: raised more
    than `LATE_S` after the deadline, time in which the machine could not run us taken off.
    """

    requests: int
    right: int
    errors: dict[str, int]
    wrong: int
    lost: int
    late: int
    untyped: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    examples: list[str]

    @property
    def is_clean(self) -> bool:
        """Did every request get one right answer or one clear error, in time?"""
        return not (self.wrong or self.lost or self.late or self.untyped)

    def as_json(self) -> dict[str, Any]:
        """All fields, for a results file."""
        return asdict(self)

    def table(self, title: str) -> Table:
        """A line for each count."""
        table = Table(title=title)
        table.add_column("outcome")
        table.add_column("requests", justify="right")
        table.add_row("answered right", str(self.right))
        for name, count in sorted(self.errors.items()):
            table.add_row(f"  {name}", str(count))
        table.add_section()
        for name in ("wrong", "lost", "late", "untyped"):
            count = getattr(self, name)
            table.add_row(name, str(count), style="bold red" if count else "bold green")
        return table


def summarize(
    outcomes: Sequence[Outcome], stuck: int, disturbed: Disturbed, stalled: Stalled
) -> Summary:
    """Count.

    Args:
        outcomes: of all requests that came back.
        stuck: requests whose `infer` did not return.
        disturbed: whether a fault may explain that this request met silence.
        stalled: seconds for which the machine did not run us, between two moments.
    """
    kinds = Counter(outcome.kind for outcome in outcomes)
    silences = [outcome for outcome in outcomes if outcome.kind == SILENT]
    # The robots and the proxies to the broker live in this process. A stall that is longer than
    # what the broker's reason has in hand explains that it came too late.
    lost = [
        outcome
        for outcome in silences
        if not disturbed(outcome)
        and stalled(outcome.started, outcome.ended) <= _reserve_s(outcome.deadline_s)
    ]
    late = [
        outcome
        for outcome in outcomes
        if outcome.took_s - outcome.deadline_s > LATE_S + stalled(outcome.started, outcome.ended)
    ]
    strange = [outcome for outcome in outcomes if outcome.kind in (WRONG, UNTYPED)]
    took_ms = [outcome.took_s * 1e3 for outcome in outcomes if outcome.kind == RIGHT] or [0.0]
    return Summary(
        requests=len(outcomes) + stuck,
        right=kinds[RIGHT],
        errors={
            name: count for name, count in kinds.items() if name not in (RIGHT, WRONG, UNTYPED)
        },
        wrong=kinds[WRONG],
        lost=len(lost) + stuck,
        late=len(late),
        untyped=kinds[UNTYPED],
        p50_ms=percentile(50)(took_ms),
        p99_ms=percentile(99)(took_ms),
        worst_ms=max(took_ms),
        examples=[str(outcome) for outcome in (*strange, *lost, *late)][:10],
    )


def _reserve_s(deadline_s: float) -> float:
    """How long before a robot's deadline the broker's own is (`client.session` asks for that)."""
    return min(0.1, 0.1 * deadline_s)
