"""A failing schedule becomes short, and what is printed of it can be run."""

from __future__ import annotations

import pytest

from broker.leases import Leases
from tests.simulation.generator import generate, has_several_brokers
from tests.simulation.schedule import Hang, Restart, Schedule, Stall
from tests.simulation.shrink import as_test, failure, shrink
from tests.simulation.violation import Violation

_SEEDS = 100


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Schedule:
    """A long schedule that fails, as suspects are never trusted again."""
    monkeypatch.setattr(Leases, "trust_again", lambda self, worker: None)
    for seed in range(_SEEDS):
        if has_several_brokers(seed):  # more troubles are needed there
            continue
        schedule = generate(seed)
        violation = failure(schedule)
        if len(schedule.steps) > 20 and violation is not None and violation.number == 5:
            return schedule
    raise LookupError("no seed fails")


def test_only_what_matters_is_left(failing: Schedule) -> None:
    shrunk = shrink(failing, 5)
    violation = failure(shrunk)
    assert violation is not None
    assert violation.number == 5
    assert len(shrunk.steps) <= 3
    for step in shrunk.steps:
        rest = tuple(each for each in shrunk.steps if each is not step)
        without = failure(Schedule(shrunk.seed, shrunk.setting, rest))
        assert without is None or without.number != 5


def test_the_printed_test_fails_as_the_schedule_does(failing: Schedule) -> None:
    source = as_test(shrink(failing, 5))
    names: dict[str, object] = {}
    exec(source, names)
    test = names[f"test_seed_{failing.seed}"]
    assert callable(test)
    with pytest.raises(Violation, match="invariant 5"):
        test()


def test_defaults_are_not_printed() -> None:
    source = as_test(Schedule(3, steps=(Hang(at=1.0, worker=0, seconds=2.0), Restart(1.5, 0.1))))
    assert "Hang(at=1.0, worker=0, seconds=2.0)" in source
    assert "Restart(at=1.5, down_s=0.1)" in source
    assert "setting=Setting()" in source
    assert Stall.__name__ not in source
