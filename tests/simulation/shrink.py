"""From a failing schedule to its shortest form, and from that to a test that can be run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass, replace
from typing import Any

from broker.events import Command, Event, Log, Tick
from tests.simulation.ledger import plain
from tests.simulation.schedule import Schedule, Step
from tests.simulation.violation import Violation
from tests.simulation.world import World

Fails = Callable[[Schedule], bool]


def failure(schedule: Schedule) -> Violation | None:
    """What goes wrong in a schedule, if anything does."""
    try:
        World(schedule).play()
    except Violation as violation:
        return violation
    return None


def shrink(schedule: Schedule, invariant: int) -> Schedule:
    """Leave out all steps without which the same invariant is still violated.

    Then whatever of the setting does not matter goes back to its default.
    """

    def fails(candidate: Schedule) -> bool:
        try:
            violation = failure(candidate)
        except (IndexError, KeyError):
            return False  # a step speaks of someone who was left out
        return violation is not None and violation.number == invariant

    while True:
        shorter = _shortest(schedule, fails)
        plainer = _plainest(shorter, fails)
        if plainer == schedule:
            return schedule
        schedule = plainer  # in a plainer setting fewer steps may do


def as_test(schedule: Schedule) -> str:
    """The source of a test that plays a schedule."""
    names = sorted({type(step).__name__ for step in schedule.steps} | {"Schedule", "Setting"})
    names += [
        name
        for name in ("RobotSpec", "TeamSpec", "WorkerSpec")
        if name in _source(schedule.setting)
    ]
    steps = "".join(f"            {_source(step)},\n" for step in schedule.steps)
    return (
        f"from tests.simulation.schedule import {', '.join(sorted(names))}\n"
        "from tests.simulation.world import World\n\n\n"
        f"def test_seed_{schedule.seed}() -> None:\n"
        "    schedule = Schedule(\n"
        f"        seed={schedule.seed},\n"
        f"        setting={_source(schedule.setting)},\n"
        f"        steps=(\n{steps}        ),\n"
        "    )\n"
        "    World(schedule).play()\n"
    )


def last_words(schedule: Schedule, most: int) -> list[str]:
    """The core's last events before a schedule fails, one line each; but for heartbeats."""
    world = World(schedule)
    with contextlib.suppress(Violation):
        world.play()
    lines = [
        f"{now:9.4f}  {_brief(event)} -> {', '.join(map(_brief, commands)) or 'nothing'}"
        for broker in world.brokers
        for now, event, commands in broker.recent
        if not all(map(_is_routine, (event, *commands)))
    ]
    return lines[-most:]


def _is_routine(message: Event | Command) -> bool:
    header = getattr(message, "header", {})
    return isinstance(message, Tick) or header.get("kind") == "heartbeat"


def _brief(message: Event | Command) -> str:
    """What a message says, for people."""
    header = getattr(message, "header", {})
    if isinstance(message, Log):
        return f"log {message.text!r}"
    telling = ("kind", "id", "attempt", "n", "ids", "state", "code", "deadline_ms")
    said = [f"{header[field]}" for field in telling if field in header]
    whom = getattr(message, "worker", b"") or b"".join(plain(getattr(message, "envelope", ())[1:]))
    return " ".join([type(message).__name__, whom.decode(errors="replace"), *said])


def _minimise(steps: list[Step], fails: Callable[[Sequence[Step]], bool]) -> list[Step]:
    """Zeller's ddmin ("Simplifying and Isolating Failure-Inducing Input", 2002).

    Parts are left out, halves first and single steps last, until none can be.
    """
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


def _shortest(schedule: Schedule, fails: Fails) -> Schedule:
    """Without every step that does not matter."""
    steps = _minimise(
        list(schedule.steps), lambda kept: fails(replace(schedule, steps=tuple(kept)))
    )
    return replace(schedule, steps=tuple(steps))


def _plainest(schedule: Schedule, fails: Fails) -> Schedule:
    """One simplification after another, as long as the schedule still fails."""
    progress = True
    while progress:
        progress = False
        for setting in _plainer(schedule.setting):
            candidate = replace(schedule, setting=setting)
            if fails(candidate):
                schedule, progress = candidate, True
                break
    return schedule


def _plainer(thing: Any) -> Iterator[Any]:
    """A dataclass with one field at its default, or the last one of several left out."""
    for each in fields(thing):
        value = getattr(thing, each.name)
        if isinstance(value, tuple):
            if len(value) > 1:
                yield replace(thing, **{each.name: value[:-1]})
            for index, member in enumerate(value):
                for plainer in _plainer(member):
                    parts = (*value[:index], plainer, *value[index + 1 :])
                    yield replace(thing, **{each.name: parts})
        elif not _is_default(each, value):
            yield replace(thing, **{each.name: each.default})


def _source(value: Any) -> str:
    """What to write for a value; fields at their defaults are left out."""
    if isinstance(value, tuple):
        return f"({''.join(f'{_source(member)}, ' for member in value).rstrip()})"
    if not is_dataclass(value) or isinstance(value, type):
        return repr(value)
    given = [each for each in fields(value) if not _is_default(each, getattr(value, each.name))]
    arguments = ", ".join(f"{each.name}={_source(getattr(value, each.name))}" for each in given)
    return f"{type(value).__name__}({arguments})"


def _is_default(field: Field[Any], value: Any) -> bool:
    return field.default is not MISSING and bool(value == field.default)
