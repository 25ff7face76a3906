"""The weights that ship hand the cube over, on starts that no training has seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from conf.compose import compose
from scripts.tiny.scene import SUCCESS, TRANSFER, Scene
from scripts.tiny.trial import CONDITIONS, Policy, roll_out
from worker.__main__ import build
from worker.config import WorkerConfig


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    scene = Scene(TRANSFER)
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


def test_it_takes_eyes(scene: Scene, policy: Policy) -> None:
    black = replace(CONDITIONS["50 actions"], black=True)
    assert roll_out(scene, policy, black, 1001).reward < SUCCESS
