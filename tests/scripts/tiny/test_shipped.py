"""The weights that ship hand the cube over, on starts that no training has seen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from scripts.tiny.evaluate import MODEL, load
from scripts.tiny.rollout import CONDITIONS, Policy, roll_out
from scripts.tiny.scene import SUCCESS, TRANSFER, Scene


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    scene = Scene(TRANSFER)
    yield scene
    scene.close()


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load(MODEL)


# Starts at which it succeeded in the evaluation that docs/tiny_model.md tells of.
@pytest.mark.parametrize("seed", [1001, 1005])
def test_the_cube_is_handed_over(scene: Scene, policy: Policy, seed: int) -> None:
    assert roll_out(scene, policy, CONDITIONS["50 actions"], seed).reward == SUCCESS


def test_it_takes_eyes(scene: Scene, policy: Policy) -> None:
    assert roll_out(scene, policy, CONDITIONS["black images"], 1001).reward < SUCCESS
