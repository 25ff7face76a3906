"""The mappings of `conf/mapping` make observations of the forms that their policies take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from broker.gateway.config import GatewayConfig
from broker.gateway.mapping import FOLDER, read_mapping
from client.errors import BadObservation
from scripts.simple_client.examples import make_example

CAMERA = np.zeros((224, 224, 3), np.uint8)
THEIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "roboarena_droid": (
        "droid",
        {
            "observation/exterior_image_0_left": CAMERA,
            "observation/wrist_image_left": CAMERA,
            "observation/joint_position": np.zeros(7, np.float32),
            "observation/gripper_position": np.zeros(1, np.float32),
            "observation/cartesian_position": np.zeros(6, np.float32),
            "prompt": "x",
        },
    ),
    "lerobot_aloha": (
        "aloha",
        {
            "observation.images.top": CAMERA,
            "observation.images.left_wrist": CAMERA,
            "observation.images.right_wrist": CAMERA,
            "observation.state": np.zeros(14, np.float32),
            "task": "x",
        },
    ),
    "groot_gr1": (
        "aloha",
        {
            "video.ego_view": CAMERA,
            "state.left_arm": np.zeros(6, np.float32),
            "state.left_hand": np.zeros(1, np.float32),
            "state.right_arm": np.zeros(6, np.float32),
            "state.right_hand": np.zeros(1, np.float32),
            "language.task": "x",
        },
    ),
    "vla_eval_libero": (
        "libero",
        {
            "images.agentview": CAMERA,
            "images.wrist": CAMERA,
            "states": np.zeros(8, np.float32),
            "task_description": "x",
        },
    ),
    "sglang_aloha": (
        "aloha",
        {
            "images.base_0_rgb": CAMERA,
            "images.left_wrist_0_rgb": CAMERA,
            "images.right_wrist_0_rgb": CAMERA,
            "state": np.zeros(14, np.float32),
            "prompt": "x",
        },
    ),
    "starvla_libero": (
        "libero",
        {
            "image.0": CAMERA,
            "image.1": CAMERA,
            "state": np.zeros(8, np.float32),
            "lang": "x",
        },
    ),
    "openvla_libero": (
        "libero",
        {
            "full_image": CAMERA,
            "wrist_image": CAMERA,
            "state": np.zeros(8, np.float32),
            "instruction": "x",
        },
    ),
}


def forms(tree: dict[str, Any]) -> dict[str, Any]:
    return {
        key: forms(value) if isinstance(value, dict) else np.shape(value)
        for key, value in tree.items()
    }


@pytest.mark.parametrize("name", THEIRS)
def test_a_mapping_makes_what_its_policy_takes(name: str) -> None:
    env, theirs = THEIRS[name]
    ours = forms(read_mapping(name).to_ours(theirs))
    wanted = forms(make_example(env))
    if env == "aloha":  # of which all cameras but one may be missing
        wanted["images"] = {camera: wanted["images"][camera] for camera in ours["images"]}
    assert ours == wanted


def test_each_file_is_read_and_each_default_is_there() -> None:
    files = {path.stem for path in FOLDER.glob("*.yaml")}
    assert all(read_mapping(name).observation for name in files)
    sections = vars(GatewayConfig()).values()
    assert {each.mapping for each in sections if getattr(each, "mapping", None)} <= files


def test_an_image_that_is_none_is_refused() -> None:
    theirs = {**THEIRS["lerobot_aloha"][1], "observation.images.top": "x"}
    with pytest.raises(BadObservation, match="cam_high must be an image"):
        read_mapping("lerobot_aloha").to_ours(theirs)
