"""Between a robot and the model; exact agreement is tested with the golden cases."""

import numpy as np
import pytest

from tests.golden import FAST_CHECKPOINT, overrides
from tests.worker.composition import make_fast_policy, make_policy
from worker.config import RobotName
from worker.errors import SettingsError
from worker.robots import ROBOTS
from worker.robots.aloha import GRIPPERS, SIGNS, actions_from_model, state_to_model
from worker.robots.observations import Array
from worker.robots.transforms import ModelInput, NoActions, Transforms

FRAME = np.zeros((3, 224, 224), np.uint8)
STATE = np.linspace(-0.5, 0.5, 14)


def transforms(*settings: str) -> Transforms:
    return make_policy("env=aloha", "model=tiny", *settings).transforms


def given(made: Transforms) -> ModelInput:
    return made.inputs({"state": STATE, "images": {"cam_high": FRAME}, "prompt": "fold"})


def mean(made: Transforms) -> Array:
    first: Array = made.outputs(np.zeros((50, 32), np.float32), given(made))[0]
    return first


def test_only_cameras_that_came_reach_the_model_in_its_order() -> None:
    images = {"cam_right_wrist": FRAME, "cam_low": FRAME, "cam_high": FRAME}
    sent = {"state": STATE, "images": images, "prompt": "fold"}
    assert list(transforms().inputs(sent).images) == ["base_0_rgb", "right_wrist_0_rgb"]


def test_the_state_is_padded_and_kept_as_it_was() -> None:
    item = given(transforms("env.adapt_to_pi=false"))
    assert item.state.shape == (32,)
    assert item.state[14:].tolist() == [0.0] * 18
    np.testing.assert_array_equal(item.robot_state, STATE)


def test_marked_dims_come_back_relative_to_the_state() -> None:
    absolute = mean(transforms("env.delta_mask=null", "env.adapt_to_pi=false"))
    relative = mean(transforms("env.delta_mask=[false,true]", "env.adapt_to_pi=false"))
    expected = absolute.copy()
    expected[1] += STATE[1]
    np.testing.assert_allclose(relative, expected)


def test_a_resting_delta_holds_the_joints_through_both_conventions() -> None:
    joints = np.delete(np.arange(14), GRIPPERS)
    np.testing.assert_allclose(mean(transforms())[joints], STATE[joints], atol=1e-12)


def test_aloha_turns_four_joints_and_both_grippers() -> None:
    turned = state_to_model(np.ones(14))
    joints = np.delete(np.arange(14), GRIPPERS)
    np.testing.assert_array_equal(turned[joints], SIGNS[joints])
    # asin((0.022^2 + 0.058^2 - 0.036^2) / (2 * 0.022 * 0.058)), then (angle - 0.5476) / 1.0820
    np.testing.assert_allclose(turned[GRIPPERS], [0.9459] * 2, atol=1e-3)
    command = actions_from_model(np.zeros((1, 14)))[0]
    np.testing.assert_allclose(command[GRIPPERS], [(0.5476 + 0.6213) / 2.1123] * 2)


def test_an_opening_beyond_the_linkage_stays_finite() -> None:
    assert np.isfinite(state_to_model(np.full(14, 9.0))).all()


FAST = [*overrides(FAST_CHECKPOINT), "env.asset_id=droid"]
GREY = np.full((224, 224, 3), 90, np.uint8)


def test_pi0_fast_on_droid_sees_black_between_base_and_wrist() -> None:
    sent = {
        "observation/joint_position": np.zeros(7),
        "observation/gripper_position": 0.5,
        "observation/exterior_image_1_left": GREY,
        "observation/wrist_image_left": GREY + 1,
        "prompt": "fold",
    }
    images = make_fast_policy(*FAST).transforms.inputs(sent).images
    assert list(images) == ["base_0_rgb", "base_1_rgb", "wrist_0_rgb"]
    assert [image.max() for image in images.values()] == [90, 0, 91]


def test_pi0_fast_on_libero_sees_black_last_and_a_state_longer_than_actions() -> None:
    sent = {
        "observation/state": np.zeros(8),
        "observation/image": GREY,
        "observation/wrist_image": GREY + 1,
        "prompt": "fold",
    }
    made = make_fast_policy(*FAST, "env=libero", "model.action_dim=7").transforms
    given = made.inputs(sent)
    assert list(given.images) == ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]
    assert [image.max() for image in given.images.values()] == [90, 91, 0]
    assert given.state.shape == (8,)
    with pytest.raises(NoActions):
        made.outputs(np.zeros(256, np.int64), given)


def test_pi0_fast_on_aloha_leaves_absent_cameras_out() -> None:
    made = ROBOTS[RobotName.aloha].fast_pictures({"base_0_rgb": GREY})
    assert list(made) == ["base_0_rgb"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["env=droid", "env.adapt_to_pi=true"], "env.adapt_to_pi"),
        (["env=libero", "env.delta_mask=[0,0,0,0,0,0,0,1]"], "8 entries, but libero has 7"),
        (["env=aloha", "model.action_dim=13"], "model.action_dim=13 is too small"),
        (["env=droid", "env.action_dim=9"], "env.action_dim=9"),
    ],
)
def test_env_and_model_that_cannot_go_together(settings: list[str], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        make_policy("model=tiny", *settings)
