"""The UR5 of docs/robots.md: its two files, taken from there, make a robot that is served."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.errors import BadObservation
from conf import compose as composing
from conf.compose import FOLDER
from tests.golden import FOLDER as GOLDEN
from tests.golden import overrides
from tests.worker.composition import compose_worker, make_policy
from worker.errors import SettingsError
from worker.policies.pi0 import Pi0Policy

DOCUMENT = Path(__file__).parents[3] / "docs" / "robots.md"
STATE = np.linspace(-1, 1, 7)
FRAME = np.zeros((240, 320, 3), np.uint8)


def quoted(language: str) -> str:
    """The one block of that language."""
    (block,) = re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return str(block)


@pytest.fixture
def ur5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Both files in place, and a small checkpoint with statistics; the settings that serve it."""
    shutil.copytree(FOLDER, tmp_path / "conf")
    (tmp_path / "conf" / "env" / "ur5.yaml").write_text(quoted("yaml"))
    (tmp_path / "ur5_robot.py").write_text(quoted("python"))
    monkeypatch.setattr(composing, "FOLDER", tmp_path / "conf")
    monkeypatch.setattr("conf.overrides.FOLDER", tmp_path / "conf")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "checkpoint"
    shutil.copytree(GOLDEN / "pi05_droid", folder, ignore=lambda *_: ["params"])
    stats = folder / "assets" / "ur5e" / "norm_stats.json"
    stats.parent.mkdir()
    part = {"mean": [0.0] * 7, "std": [1.0] * 7, "q01": [-2.0] * 7, "q99": [2.0] * 7}
    stats.write_text(json.dumps({"norm_stats": {"state": part, "actions": part}}))
    left_out = ("env=", "env.asset_id=", "checkpoint=")
    small = [s for s in overrides("pi05_droid") if not s.startswith(left_out)]
    return ["env=ur5", *small, f"checkpoint='{folder}'"]


def observation(**changed: Any) -> dict[str, Any]:
    sent = {
        "joints": STATE[:6],
        "gripper": 1.0,
        "base_rgb": FRAME,
        "wrist_rgb": FRAME,
        "prompt": "pick up the cup",
        "seed": 1,
    }
    return {**sent, **changed}


@pytest.fixture
def policy(ur5: list[str]) -> Pi0Policy:
    made = make_policy(*ur5)
    made.load()
    return made


def test_it_is_served(policy: Pi0Policy) -> None:
    actions = policy.infer(observation())["actions"]
    assert actions.shape == (15, 7)
    assert policy.warm_up() > 0
    keys = set(policy.metadata["observation"])
    assert {"joints", "gripper", "base_rgb", "wrist_rgb", "prompt"} <= keys
    assert policy.metadata["control_hz"] == 20


def test_joints_are_relative_and_the_gripper_is_not(policy: Pi0Policy) -> None:
    still = policy.transforms.inputs(observation())
    actions = policy.transforms.outputs(np.zeros((15, 32), np.float32), still)
    np.testing.assert_allclose(actions, np.tile([*STATE[:6], 0.0], (15, 1)), atol=1e-6)
    assert list(still.images) == ["base_0_rgb", "left_wrist_0_rgb"]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"joints": STATE}, r"joints: expected .*\(6,\), got"),
        ({"wrist_rgb": None}, "wrist_rgb: missing"),
        ({"wrist_rbg": FRAME}, "wrist_rbg: no such key; did you mean wrist_rgb"),
    ],
)
def test_its_errors_name_its_own_keys(
    policy: Pi0Policy, changed: dict[str, Any], says: str
) -> None:
    with pytest.raises(BadObservation, match=says):
        policy.infer(observation(**changed))


@pytest.mark.parametrize(
    ("robot", "says"),
    [
        ("ur5_robot.UR6", r"env.robot=ur5_robot\.UR6 cannot be imported"),
        ("gone.UR5", r"env.robot=gone\.UR5 cannot be imported: No module named 'gone'"),
        ("ur5_robot.Vector", r"is a type, expected a RobotSpec"),
        (".UR5", "cannot be imported"),
    ],
)
def test_a_robot_that_is_none(ur5: list[str], robot: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        make_policy(*ur5, f"env.robot={robot}")


def test_the_environment_is_chosen_like_any_other(ur5: list[str]) -> None:
    config = compose_worker("env=ur5")
    assert (config.name, config.model.name, config.checkpoint) == ("ur5", "pi05", None)


NESTED = """
from worker.robots.observations import Image, Vector
from worker.robots import RobotSpec

NESTED = RobotSpec(
    vectors=(Vector(("arm", "left", "joints"), 6), Vector(("arm", "grip"), 1, scalar=True)),
    images=(Image(("cameras", "base"), "base_0_rgb"), Image(("cameras", "spare"), None)),
    action_dim=7,
)
"""


def test_keys_may_be_nested_as_the_document_says(ur5: list[str], tmp_path: Path) -> None:
    (tmp_path / "nested_robot.py").write_text(NESTED)
    policy = make_policy(*ur5, "env.robot=nested_robot.NESTED", "num_steps=1")
    policy.load()
    assert policy.warm_up() > 0
    arm = {"left": {"joints": STATE[:6]}, "grip": 1.0}
    cameras = {"base": FRAME, "spare": FRAME}
    actions = policy.infer({"arm": arm, "cameras": cameras, "prompt": "fold"})["actions"]
    assert actions.shape == (15, 7)
    with pytest.raises(BadObservation, match="arm/left: missing, expected a dict"):
        policy.infer({"arm": {"grip": 1.0}, "cameras": cameras, "prompt": "fold"})
