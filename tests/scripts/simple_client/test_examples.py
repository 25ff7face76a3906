"""The examples are what the workers take."""

from __future__ import annotations

import numpy as np
import pytest

from scripts.simple_client.examples import EXAMPLES, make_example
from worker.config import RobotName
from worker.robots import ROBOTS
from worker.robots.observations import parse

ROBOT_OF = {
    "aloha": RobotName.aloha,
    "aloha_sim": RobotName.aloha,
    "droid": RobotName.droid,
    "libero": RobotName.libero,
}


@pytest.mark.parametrize("env", EXAMPLES)
def test_workers_take_them(env: str) -> None:
    spec = ROBOTS[ROBOT_OF[env]]
    default_prompt = "Transfer cube" if env == "aloha_sim" else None
    taken = parse(make_example(env), spec.vectors, spec.images, (50, 32), default_prompt)
    assert taken.prompt
    assert len(taken.vectors) == len(spec.vectors)
    cameras = 1 if env == "aloha_sim" else len(spec.images)
    assert [image.shape for image in taken.images.values()] == [(224, 224, 3)] * cameras


@pytest.mark.parametrize("env", EXAMPLES)
def test_they_can_be_repeated_and_differ(env: str) -> None:
    first = make_example(env, 1)
    np.testing.assert_equal(first, make_example(env, 1))
    with pytest.raises(AssertionError):
        np.testing.assert_equal(first, make_example(env, 2))
