"""The weights that ship do both tasks, on starts that no training has seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from conf.compose import compose
from scripts.tiny.scene import INSERTION, SUCCESS, TRANSFER, Scene
from scripts.tiny.trial import CONDITIONS, Policy, roll_out
from worker.__main__ import build
from worker.config import WorkerConfig

PEG = 1011  # a start at which the peg was inserted in the evaluation


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    scene = Scene(TRANSFER)
    yield scene
    scene.close()


@pytest.fixture(scope="module")
def insertion() -> Iterator[Scene]:
    scene = Scene(INSERTION)
    yield scene
    scene.close()


@pytest.fixture(scope="module")
def policy() -> Policy:
    settings = ("env=aloha_sim", "model=tiny", "runtime.threads=1")
    served = build(compose("worker", WorkerConfig, settings))
    getattr(served, "load")()  # noqa: B009
    return served


# Starts at which it succeeded in the evaluation that docs/tiny_model.md tells of.
@pytest.mark.parametrize("seed", [1001, 1005])
def test_the_cube_is_handed_over(scene: Scene, policy: Policy, seed: int) -> None:
    assert roll_out(scene, policy, CONDITIONS["50 actions"], seed).reward == SUCCESS


def test_the_peg_is_inserted(insertion: Scene, policy: Policy) -> None:
    assert roll_out(insertion, policy, CONDITIONS["25 actions"], PEG).reward == SUCCESS


def test_the_prompt_decides(scene: Scene, policy: Policy) -> None:
    wrong = replace(CONDITIONS["50 actions"], wrong_prompt=True)
    assert roll_out(scene, policy, wrong, 1001).reward < SUCCESS


def test_it_takes_eyes(scene: Scene, policy: Policy) -> None:
    black = replace(CONDITIONS["50 actions"], black=True)
    assert roll_out(scene, policy, black, 1001).reward < SUCCESS
