"""A thousand schedules, and that the simulation is what it says: deterministic and varied."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from functools import cache

import pytest

from broker.names import Names
from broker.versions import Key
from broker.workers import Pool
from tests.simulation.generator import MOODS, TROUBLES, generate
from tests.simulation.schedule import (
    Ask,
    Crash,
    Jump,
    Restart,
    Rollout,
    Schedule,
    Setting,
    WorkerSpec,
)
from tests.simulation.violation import Violation
from tests.simulation.world import Outcome, World

_SEEDS = 1_000  # `python -m tests.simulation` plays more
_CHUNK = 100
_PRINT_DIGEST = """
from tests.simulation.generator import generate
from tests.simulation.world import World
print(World(generate(11)).play().digest)
"""


@cache
def played(seed: int) -> Outcome:
    """What becomes of a schedule, which is played once for all tests."""
    return World(generate(seed)).play()


@pytest.mark.parametrize("start", range(0, _SEEDS, _CHUNK))
def test_no_invariant_is_violated(start: int) -> None:
    for seed in range(start, start + _CHUNK):
        played(seed)


def test_every_kind_of_answer_and_of_trouble_occurs() -> None:
    words, steps = Counter[str](), Counter[str]()
    for seed in range(150):
        words += played(seed).words
        steps.update(type(step).__name__.lower() for step in generate(seed).steps)
    errors = "ambiguous_policy bad_observation deadline_exceeded draining message_too_large"
    errors += " no_worker overloaded protocol_error superseded unknown_policy worker_loading"
    assert words.keys() >= {*errors.split(), "result", "worker_lost", "forgotten by a restart"}
    assert words["result"] > words.total() / 2
    assert steps.keys() >= set(TROUBLES) | {"ask", "askagain", "call"}
    assert set().union(*MOODS.values()) <= set(TROUBLES)


def test_a_policy_that_is_gone_for_long_is_not_meant_by_those_who_name_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = (WorkerSpec(policy="a"), WorkerSpec(policy="b"))
    steps = (Crash(0.5, 1, None), Jump(0.8, 100.0), Ask(1.5, 0, policy=None))
    schedule = Schedule(1, Setting(workers), steps)
    assert World(schedule).play().words["ambiguous_policy"] == 0
    # And the simulation would see it: random schedules hardly ever come to this.
    monkeypatch.setattr(Pool, "names", lambda self, now: list(self.by_policy))
    with pytest.raises(Violation, match="without cause"):
        World(schedule).play()


def test_a_restarted_broker_waits_for_the_version_that_an_episode_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = (WorkerSpec(policy="a@1", delay_s=0.05), WorkerSpec(policy="a@2"))
    asks = [Ask(0.8 + number / 5, 0, deadline_s=3.0) for number in range(10)]
    steps = (Rollout(0.6, "a@1"), *asks, Restart(1.0, 0.1))
    schedule = Schedule(1, Setting(workers), tuple(sorted(steps, key=lambda step: step.at)))
    assert World(schedule).play().words["result"] >= len(asks)

    # And the simulation would see it: in random schedules the others are hardly ever first.
    def at_once(self: Names, base: str, told: str | None, key: Key, now: float) -> str:
        if base not in self._versions.records:
            return base
        return self._versions.choose(base, key, told, self._pool.serves_since, now)

    monkeypatch.setattr(Names, "_version", at_once)
    with pytest.raises(Violation, match="which may yet come"):
        World(schedule).play()


def test_the_seed_decides_everything() -> None:
    outcomes = [World(generate(11)).play() for _ in range(2)]
    assert outcomes[0] == outcomes[1]
    assert outcomes[0].digest != World(generate(12)).play().digest
    # Nothing may hang on the order of a set either, which differs between processes.
    command = [sys.executable, "-c", _PRINT_DIGEST]
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        printed = subprocess.run(command, env=environment, check=True, capture_output=True)
        assert int(printed.stdout) == outcomes[0].digest
