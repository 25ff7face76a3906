"""From a failing schedule to its shortest form, and from that to a test that can be run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.simulation.schedule import Schedule, Step
from tests.simulation.violation import Violation
from tests.simulation.world import World


def failure(schedule: Schedule) -> Violation | None:
    """What goes wrong in a schedule, if anything does."""
    try:
        World(schedule).play()
    except Violation as violation:
        return violation
    return None


def shrink(schedule: Schedule, invariant: int) -> Schedule:
    """Leave out all steps without which the same invariant is still violated.

    Zeller's ddmin ("Simplifying and Isolating Failure-Inducing Input", 2002): parts are left
    out, halves first and single steps last, until no single one can be.
    """

    def fails(steps: Sequence[Step]) -> bool:
        violation = failure(replace(schedule, steps=tuple(steps)))
        return violation is not None and violation.number == invariant

    return replace(schedule, steps=tuple(_minimise(list(schedule.steps), fails)))


def as_test(schedule: Schedule) -> str:
    """The source of a test that plays a schedule; imports are `tests.simulation.schedule`'s."""
    steps = "".join(f"            {step!r},\n" for step in schedule.steps)
    return (
        f"def test_seed_{schedule.seed}() -> None:\n"
        f"    schedule = Schedule(\n"
        f"        seed={schedule.seed},\n"
        f"        setting={schedule.setting!r},\n"
        f"        steps=(\n{steps}        ),\n"
        f"    )\n"
        f"    World(schedule).play()\n"
    )


def _minimise(steps: list[Step], fails: Callable[[Sequence[Step]], bool]) -> list[Step]:
    parts = 2
    while steps:
        size = max(1, len(steps) // parts)
        for start in range(0, len(steps), size):
            rest = steps[:start] + steps[start + size :]
            if fails(rest):
                steps, parts = rest, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(len(steps), 2 * parts)
    return steps
