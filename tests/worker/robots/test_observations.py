"""Each thing that can be wrong with an observation is named: the key, what fits, what came."""

import enum
from typing import Any

import numpy as np
import pytest

from client.errors import BadObservation
from worker.config import RobotName
from worker.robots import ROBOTS
from worker.robots.observations import CheckedObservation, describe, parse

NOISE = (5, 4)
FRAME = np.zeros((3, 48, 64), np.uint8)


def aloha(**changes: Any) -> dict[str, Any]:
    observation = {
        "state": np.zeros(14),
        "images": {"cam_high": FRAME, "cam_left_wrist": FRAME},
        "prompt": "fold",
    }
    return {**observation, **changes}


def droid(**changes: Any) -> dict[str, Any]:
    observation = {
        "observation/joint_position": np.zeros(7, np.float32),
        "observation/gripper_position": np.zeros(1, np.float32),
        "observation/exterior_image_1_left": FRAME,
        "observation/wrist_image_left": FRAME.transpose(1, 2, 0),
        "prompt": "fold",
    }
    return {**observation, **{f"observation/{k}": v for k, v in changes.items()}}


def check(
    sent: Any, robot: RobotName = RobotName.aloha, prompt: str | None = None
) -> CheckedObservation:
    spec = ROBOTS[robot]
    return parse(sent, spec.vectors, spec.images, NOISE, prompt)


def test_images_come_out_as_bytes_with_channels_last() -> None:
    checked = check(droid(), RobotName.droid)
    assert [image.shape for image in checked.images.values()] == [(48, 64, 3)] * 2


def test_floats_become_bytes_by_truncation() -> None:
    frame = np.full((3, 2, 2), 0.999, np.float32)
    image = check(aloha(images={"cam_high": frame})).images["images/cam_high"]
    assert image.dtype == np.uint8
    assert image.min() == image.max() == 254


@pytest.mark.parametrize(
    "gripper", [0.5, np.float32(0.5), np.array(0.5), [0.5], np.array([0.5]), [np.float64(0.5)]]
)
def test_a_bare_number_is_a_gripper(gripper: Any) -> None:
    checked = check(droid(gripper_position=gripper), RobotName.droid)
    assert checked.vectors["observation/gripper_position"].tolist() == [0.5]


@pytest.mark.parametrize(
    "state",
    [
        [0] * 13 + [2],
        (0.0,) * 13 + (2.0,),
        [np.float32(0)] * 13 + [np.int16(2)],
        [np.array(0.0)] * 13 + [np.array(2)],
        np.array([0] * 13 + [2]),
        np.array([0] * 13 + [2], np.uint8),
        np.array([0] * 13 + [2], np.float16),
    ],
    ids=str,
)
def test_numbers_of_any_kind_are_a_state(state: Any) -> None:
    vector = check(aloha(state=state)).vectors["state"]
    assert vector.dtype == np.float64
    assert vector.tolist() == [0.0] * 13 + [2.0]


class Task(str, enum.Enum):  # noqa: UP042 - on Python 3.8 there is no other
    """As people name their tasks."""

    FOLD = "fold it"


class Words(str):
    """A text of one's own kind."""


@pytest.mark.parametrize(
    "prompt", [Task.FOLD, Words("fold it"), np.str_("fold it"), np.array("fold it")]
)
def test_texts_of_any_kind_are_a_prompt(prompt: Any) -> None:
    found = check(aloha(prompt=prompt)).prompt
    assert (type(found), found) == (str, "fold it")


def test_the_default_prompt_fills_in_only_where_none_came() -> None:
    assert check(aloha(prompt=None), prompt="hold").prompt == "hold"
    assert check(aloha(), prompt="hold").prompt == "fold"
    assert check(aloha(prompt=""), prompt="hold").prompt == ""


def test_noise_and_seed_travel_along() -> None:
    checked = check(aloha(noise=np.ones(NOISE, np.float32), seed=np.int64(7)))
    assert checked.seed == 7
    assert checked.noise is not None
    assert checked.noise.shape == NOISE
    again = check(aloha(noise=np.ones(NOISE), seed=np.array(7)))
    assert again.seed == 7
    np.testing.assert_array_equal(again.noise, checked.noise)
    assert again.noise is not None
    assert again.noise.dtype == np.float32


STATE = r"state: expected numbers of shape \(14,\), got "
CAMERA = r"images/cam_high: expected an image of shape \(3, H, W\), uint8 or float in \[0, 1\]"
WRONG: list[tuple[Any, str]] = [
    (None, "expected a dict, got NoneType"),
    ([1], "expected a dict, got list"),
    ({}, "images: missing, expected a dict"),
    (
        {"images": {"cam_high": FRAME}, "prompt": ""},
        r"state: missing, expected shape \(14\), float32 or float64",
    ),
    (aloha(state=np.zeros(7)), STATE + r"float64 of shape \(7,\)"),
    (aloha(state=np.zeros((1, 14))), STATE + r"float64 of shape \(1, 14\)"),
    (aloha(state=np.zeros(14, np.bool_)), STATE + "bool"),
    (aloha(state=[np.bool_(True)] * 14), STATE + "list"),
    (aloha(state=[np.zeros(1)] * 14), STATE + "list"),
    (aloha(prompt=np.array(["fold"])), r"prompt: expected a str, got <U4 of shape \(1,\)"),
    (aloha(state=np.zeros(14, np.complex64)), STATE + "complex64"),
    (aloha(state=np.array(["a"] * 14)), STATE + "<U1"),
    (aloha(state="home"), STATE + "str 'home'"),
    (aloha(state=[True] * 14), STATE + "list"),
    (aloha(state=[[0.0] * 14]), STATE + "list"),
    (aloha(state=[10**400] * 14), STATE + "list"),
    (aloha(state=np.full(14, np.nan)), "state: NaN or infinity"),
    (aloha(state=np.full(14, np.inf, np.float32)), "state: NaN or infinity"),
    (aloha(state=np.full(14, 1e300)), r"state: no robot's values exceed 1e\+06"),
    (aloha(images=FRAME), r"images: expected a dict, got uint8 of shape \(3, 48, 64\)"),
    (aloha(images=None), "images: expected a dict, got NoneType"),
    (aloha(images={"cam_left_wrist": FRAME}), r"images/cam_high: missing, expected shape \(3, H"),
    (aloha(images={"cam_high": FRAME, "cam_hihg": FRAME}), "cam_hihg: no such key; did you mean"),
    (aloha(images={"cam_high": FRAME, "depth": FRAME}), "images/depth: no such key; expected are"),
    (aloha(images={"cam_high": FRAME.transpose(1, 2, 0)}), CAMERA + r", got uint8 of shape \(48"),
    (aloha(images={"cam_high": FRAME[0]}), CAMERA + r", got uint8 of shape \(48, 64\)"),
    (aloha(images={"cam_high": FRAME[None]}), CAMERA + r", got uint8 of shape \(1, 3"),
    (aloha(images={"cam_high": FRAME.astype(np.int32)}), CAMERA + ", got int32"),
    (aloha(images={"cam_high": FRAME.tolist()}), CAMERA + ", got list"),
    (aloha(images={"cam_high": FRAME[:, :0]}), CAMERA + ", with sides of similar length"),
    (aloha(images={"cam_high": np.zeros((3, 1, 999), np.uint8)}), "with sides of similar length"),
    (aloha(images={"cam_high": FRAME + 200.0}), r"lie in \[0, 1\], this one goes from 200 to 200"),
    (aloha(images={"cam_high": FRAME + np.float32(3e38)}), "lie in"),
    (aloha(images={"cam_high": FRAME - 0.5}), r"lie in \[0, 1\], this one goes from -0.5"),
    (aloha(images={"cam_high": FRAME * np.nan}), r"lie in \[0, 1\]"),
    (aloha(prompt=None), "prompt: missing, expected a str"),
    (aloha(prompt=b"fold"), "prompt: expected a str, got bytes"),
    (aloha(prompt=7), "prompt: expected a str, got int 7"),
    (aloha(promt="fold"), "promt: no such key; did you mean prompt"),
    (aloha(stat=1), "stat: no such key; did you mean state"),
    (aloha(zebra=1), "zebra: no such key; expected are images, .*noise, .*state"),
    ({**aloha(), 7: 1}, "7: no such key"),
    (aloha(noise=np.zeros((5, 3), np.float32)), r"noise: expected floats of shape \(5, 4\), got"),
    (aloha(noise=np.zeros(NOISE, np.int32)), "noise: expected floats .* got int32"),
    (aloha(noise=np.full(NOISE, 1e300)), "noise: NaN or infinity in it, as float32"),
    (aloha(noise=[1.0]), "noise: expected floats"),
    (aloha(noise=np.full(NOISE, np.nan, np.float32)), "noise: NaN"),
    (aloha(seed=-1), "seed: expected an int from 0"),
    (aloha(seed=2**64), "seed: expected an int from 0"),
    (aloha(seed=1.5), "seed: expected an int"),
    (aloha(seed=True), "seed: expected an int"),
]


@pytest.mark.parametrize(("sent", "says"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_named(sent: Any, says: str) -> None:
    with pytest.raises(BadObservation, match=says):
        check(sent)


def test_a_model_that_starts_from_no_noise_takes_none() -> None:
    spec = ROBOTS[RobotName.aloha]
    assert parse(aloha(noise=None), spec.vectors, spec.images, None, None).noise is None
    with pytest.raises(BadObservation, match="noise: expected none"):
        parse(aloha(noise=np.ones(NOISE, np.float32)), spec.vectors, spec.images, None, None)


def test_a_nested_observation_is_told_the_flat_keys() -> None:
    with pytest.raises(BadObservation, match="observation: no such key; did you mean observation/"):
        check({"observation": {"joint_position": np.zeros(7)}}, RobotName.droid)


def test_a_wrong_shape_is_named_where_scalars_are_allowed() -> None:
    with pytest.raises(BadObservation, match=r"shape \(1,\) or one number, got .* \(2,\)"):
        check(droid(gripper_position=np.zeros(2)), RobotName.droid)


@pytest.mark.parametrize("robot", list(RobotName))
def test_the_specification_has_the_observations_own_keys(robot: RobotName) -> None:
    spec = ROBOTS[robot]
    tree = describe(spec.vectors, spec.images, None)
    assert tree["prompt"] == {"shape": [], "dtype": "str", "optional": False}
    for field in (*spec.vectors, *spec.images):
        branch = tree
        for part in field.path:  # type: ignore[attr-defined]
            branch = branch[part]
        assert set(branch) == {"shape", "dtype", "optional"}
