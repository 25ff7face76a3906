"""What is left of a chunk: every fault named before the device, and the way into the model."""

from typing import Any

import numpy as np
import pytest

from client.errors import BadObservation
from tests.golden import FLOW_CHECKPOINTS, cases, overrides
from tests.worker.composition import make_fast_policy, make_policy
from worker.robots.aloha import actions_from_model, actions_to_model
from worker.robots.leftover import Leftover, Mode, Schedule, parse_leftover, prefix_weights
from worker.robots.transforms import ModelInput, Transforms

HORIZON, DIMS = 10, 3
ROWS = np.arange(18.0).reshape(6, DIMS)


def parse(**fields: Any) -> Leftover:
    leftover = parse_leftover({"prev_actions": ROWS, **fields}, HORIZON, DIMS)
    assert leftover is not None
    return leftover


def inputs(checkpoint: str, **fields: Any) -> ModelInput:
    return transforms(checkpoint).inputs({**cases(checkpoint)[0].observation, **fields})


def transforms(checkpoint: str) -> Transforms:
    return make_policy(*overrides(checkpoint)).transforms


def test_a_plain_request_has_no_leftover() -> None:
    assert parse_leftover({"state": ROWS}, HORIZON, DIMS) is None
    assert inputs("pi0_aloha").guidance is None


def test_by_default_it_is_heeded_without_a_gradient_to_its_end() -> None:
    leftover = parse()
    assert (leftover.mode, leftover.schedule) == (Mode.identity, Schedule.linear)
    assert (leftover.delay, leftover.attention_horizon, leftover.max_weight) == (0, 6, 10.0)
    paper = parse(mode="vjp")
    assert (paper.schedule, paper.max_weight) == (Schedule.exp, 5.0)


def test_the_horizon_is_cut_to_what_is_left() -> None:
    assert parse(prefix_attention_horizon=9).attention_horizon == 6
    assert parse(prefix_attention_horizon=np.int64(2)).attention_horizon == 2


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prev_actions": ROWS.tolist()}, r"prev_actions: .*\(1 to 10, 3\), got list"),
        ({"prev_actions": ROWS.astype(int)}, r"floats of shape .* got int64"),
        ({"prev_actions": ROWS[:, :2]}, r"got float64 of shape \(6, 2\)"),
        ({"prev_actions": ROWS[0]}, r"got float64 of shape \(3,\)"),
        ({"prev_actions": ROWS[:0]}, r"got float64 of shape \(0, 3\)"),
        ({"prev_actions": np.zeros((11, 3))}, r"got float64 of shape \(11, 3\)"),
        ({"prev_actions": np.full((2, 3), np.nan)}, "prev_actions: NaN or infinity"),
        ({"prev_actions": np.full((2, 3), 1e7)}, "prev_actions: no robot's actions exceed"),
        ({"inference_delay": 7}, "inference_delay: expected an int from 0 to 6"),
        ({"inference_delay": -1}, "inference_delay: expected an int from 0 to 6"),
        ({"inference_delay": 1.5}, "inference_delay: .* got float 1.5"),
        ({"inference_delay": True}, "inference_delay: .* got bool"),
        ({"prefix_attention_horizon": 11}, "prefix_attention_horizon: .* 0 to 10"),
        ({"schedule": "cosine"}, "schedule: expected one of linear, exp, ones, zeros; got str"),
        ({"schedule": 3}, "schedule: .* got int 3"),
        ({"mode": "magic"}, "mode: expected one of identity, vjp, trained; got str 'magic'"),
        ({"max_guidance_weight": 0}, "max_guidance_weight: expected a number above 0"),
        ({"max_guidance_weight": 101.0}, "max_guidance_weight: .* at most 100"),
        ({"max_guidance_weight": float("nan")}, "max_guidance_weight: .* got float nan"),
        ({"max_guidance_weight": "5"}, "max_guidance_weight: .* got str"),
        ({"prev_actions": None, "inference_delay": 2}, "inference_delay: .* without prev_actions"),
        ({"prev_actions": None, "mode": "vjp"}, "mode: .* without prev_actions"),
    ],
)
def test_what_does_not_fit_is_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BadObservation, match=said):
        parse(**fields)


def test_pi0_fast_has_no_flow_to_guide() -> None:
    policy = make_fast_policy(*overrides("pi0_fast_droid"))
    sent = {**cases("pi0_fast_droid")[0].observation, "prev_actions": np.zeros((4, 8))}
    with pytest.raises(BadObservation, match="no flow.* merge='average'"):
        policy.transforms.inputs(sent)


def test_a_form_that_is_not_served_is_refused_alone() -> None:
    policy = make_policy("env=aloha_sim", "model=tiny", "num_steps=1", "runtime.rtc=[identity]")
    assert policy.metadata["rtc"] == ["identity"]
    policy.load()
    sent = {"state": np.zeros(14), "images": {"cam_high": np.zeros((3, 48, 64), np.uint8)}}
    left = {**sent, "prev_actions": np.zeros((4, 14))}
    plain, identity, vjp = policy.infer_batch([sent, left, {**left, "mode": "vjp"}])
    assert isinstance(plain, dict)
    assert isinstance(identity, dict)
    assert isinstance(vjp, BadObservation)
    assert "serves identity (its runtime.rtc=)" in str(vjp)


@pytest.mark.parametrize("schedule", Schedule)
def test_weights_are_one_before_the_delay_and_nothing_after_the_end(schedule: Schedule) -> None:
    weights = prefix_weights(2, 6, HORIZON, schedule)
    assert weights[:2].tolist() == [1.0, 1.0]
    assert weights[6:].tolist() == [0.0] * 4
    assert (np.diff(weights) <= 0).all()
    middle = {"ones": [1.0] * 4, "zeros": [0.0] * 4, "linear": [0.8, 0.6, 0.4, 0.2]}
    if schedule in middle:
        np.testing.assert_allclose(weights[2:6], middle[schedule])


def test_a_delay_beyond_the_end_is_cut_to_it() -> None:
    assert prefix_weights(5, 3, 6, Schedule.linear).tolist() == [1, 1, 1, 0, 0, 0]


def test_rows_that_are_not_left_pull_nowhere() -> None:
    """Zeros would be the training data's mean."""
    guidance = inputs("pi0_aloha", prev_actions=np.ones((6, 14))).guidance
    assert guidance is not None
    assert guidance.weights[6:].tolist() == [0.0] * 44
    assert (guidance.weights[:6] > 0).all()


def test_a_trained_prefix_is_given_and_nothing_pulls() -> None:
    fields = {"prev_actions": np.ones((6, 14)), "inference_delay": 4, "mode": "trained"}
    guidance = inputs("pi0_aloha", **fields).guidance
    assert guidance is not None
    assert guidance.given == 4
    assert not guidance.weights.any()


@pytest.mark.parametrize("checkpoint", FLOW_CHECKPOINTS)
def test_the_way_into_the_model_undoes_the_way_out(checkpoint: str) -> None:
    there = transforms(checkpoint)
    observation = cases(checkpoint)[0].observation
    given = there.inputs(observation)
    horizon, dims = there._model.action_horizon, there._model.action_dim
    raw = np.random.default_rng(0).standard_normal((horizon, dims)).astype(np.float32)
    actions = there.outputs(raw, given)
    guidance = there.inputs({**observation, "prev_actions": actions}).guidance
    assert guidance is not None
    robot_dims = actions.shape[1]
    np.testing.assert_allclose(guidance.previous[:, :robot_dims], raw[:, :robot_dims], atol=1e-4)
    assert not guidance.previous[:, robot_dims:].any()


def test_relative_actions_begin_anew_at_the_state_of_the_observation() -> None:
    moved = cases("pi0_aloha")[0].observation
    moved = {**moved, "state": moved["state"] + 0.1}
    still = np.ones((6, 14))
    guidances = [
        inputs("pi0_aloha", prev_actions=still, **extra).guidance
        for extra in ({}, {"state": moved["state"]})
    ]
    assert guidances[0] is not None
    assert guidances[1] is not None
    difference = np.abs(guidances[0].previous - guidances[1].previous)[:6, :14]
    assert (difference[:, [0, 5, 7, 12]] > 1e-3).all()
    assert not difference[:, [6, 13]].any()


def test_aloha_commands_go_back_and_forth() -> None:
    actions = np.random.default_rng(0).standard_normal((5, 14))
    kept = actions.copy()
    np.testing.assert_allclose(actions_to_model(actions_from_model(actions)), actions, atol=1e-12)
    np.testing.assert_array_equal(actions, kept)
