"""Action guards: what each rule changes or refuses, what is told, and settings that cannot work."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client.body import decode_body
from client.errors import BadObservation, GuardBreached, PolicyFailed
from client.wire import MAX_STAGES, decode_header, encode_header
from conf.compose import ConfigError
from tests.worker.composition import compose_worker
from tests.worker.device import Device
from tests.worker.test_inference import job
from worker.answers import Answer
from worker.robots.guards import CLIPPED, Guards, guards_of, header_fields
from worker.robots.observations import Vector
from worker.robots.robot import RobotSpec

SHORT = RobotSpec(vectors=(Vector(("joints",), 3),), images=(), action_dim=8)
NULLS = ", ".join(["null"] * 6)
# Droid's state has a number for each action; its joints are named by their places.
DROID = "env=droid"


def guards(*rules: str, on_breach: str = "clip", env: str = DROID) -> Guards:
    settings = [f"env.guards.{rule}" for rule in (f"on_breach={on_breach}", *rules)]
    made = guards_of(compose_worker(env, *settings).env)
    assert made is not None
    return made


def chunk(*rows: float, dims: int = 8) -> np.ndarray[Any, Any]:
    """Actions whose first joint moves as given, while all others stand still at 0."""
    actions = np.zeros((len(rows), dims))
    actions[:, 0] = rows
    return actions


def observed(first: float) -> dict[str, Any]:
    joints = np.zeros(7)
    joints[0] = first
    return {"observation/joint_position": joints, "observation/gripper_position": 0.0}


def test_they_are_off_unless_switched_on() -> None:
    for env in ("aloha", "aloha_sim", "aloha_towel", "droid", "libero"):
        assert guards_of(compose_worker(f"env={env}").env) is None


def test_a_chunk_that_keeps_to_all_rules_is_given_back_as_it_is() -> None:
    result = {"actions": chunk(0.1, 0.2, 0.3), "other": 1}
    rules = ("min=-1", "max=1", "max_change=0.11", "max_first_change=0.2")
    assert guards(*rules).judge(result, observed(0.0)) is result


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_limits_are_for_each_joint(dtype: Any) -> None:
    given = np.array([[5, -5, 5], [1, 1, -9]], dtype)
    given = np.concatenate([given, np.zeros((2, 5), dtype)], axis=1)
    result = {"actions": given}
    low = f"min=[null, -2, {NULLS}]"
    told = guards(low, f"max=[3, null, {NULLS}]").judge(result, {})
    assert told["actions"][:, :3].tolist() == [[3, -2, 5], [1, 1, -9]]
    assert told["actions"].dtype == (dtype if dtype is np.float32 else np.float64)
    assert told[CLIPPED] == {"action_0/limit": 1, "action_1/limit": 1}
    assert result["actions"] is given  # the policy's own arrays are left alone
    assert given[0, 0] == 5
    assert CLIPPED not in result


def test_a_rate_holds_each_action_against_what_the_robot_was_told_before_it() -> None:
    told = guards("max_change=0.5").judge({"actions": chunk(0.0, 2.0, 2.0, 0.0, 0.1)}, {})
    np.testing.assert_allclose(told["actions"][:, 0], [0.0, 0.5, 1.0, 0.5, 0.1], atol=1e-8)
    assert told[CLIPPED] == {"action_0/rate": 3}
    assert not told["actions"][:, 1:].any()
    again = guards("max_change=0.5").judge({"actions": told["actions"]}, {})
    assert CLIPPED not in again


def test_the_first_action_is_held_against_the_state_in_the_robots_own_convention() -> None:
    rules = ("max_first_change=0.2", "max_change=0.5")
    told = guards(*rules).judge({"actions": chunk(3.0, 3.0)}, observed(1.0))
    np.testing.assert_allclose(told["actions"][:, 0], [1.2, 1.7], atol=1e-8)
    assert told[CLIPPED] == {"action_0/first": 1, "action_0/rate": 1}
    # ALOHA's models count some joints the other way round: that must not matter here.
    aloha = guards("max_first_change=0.1", "max=null", "min=null", env="env=aloha_sim")
    state = np.linspace(-0.7, 0.6, 14)
    assert CLIPPED not in aloha.judge({"actions": state[None] + 0.05}, {"state": state})
    moved = aloha.judge({"actions": state[None] + 0.3}, {"state": state.astype(np.float32)})
    np.testing.assert_allclose(moved["actions"][0], state + 0.1, atol=1e-6)
    assert moved[CLIPPED]["left_shoulder/first"] == 1


def test_a_state_outside_of_the_limits_leads_no_action_out_of_them() -> None:
    rules = ("max=1", "max_first_change=0.2")
    told = guards(*rules).judge({"actions": chunk(0.0)}, observed(5.0))
    assert told["actions"][0, 0] == 1.0


def test_a_rule_that_needs_the_state_says_which_key_is_missing() -> None:
    with pytest.raises(BadObservation, match="observation/joint_position: missing"):
        guards("max_first_change=0.2").judge({"actions": chunk(3.0)}, {"state": 1})
    with pytest.raises(BadObservation, match="state: missing"):
        guards("max_first_change=1", env="env=aloha").judge({"actions": np.zeros((1, 14))}, {})


@pytest.mark.parametrize("on_breach", ["clip", "refuse"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_even_where_others_are_clipped(
    on_breach: str, value: float
) -> None:
    with pytest.raises(GuardBreached, match=r"action_0/finite \(2\)") as caught:
        guards("max=1", on_breach=on_breach).judge({"actions": chunk(0.0, value, value)}, {})
    assert caught.value.breaches == {"action_0/finite": 2}
    assert isinstance(caught.value, PolicyFailed)


@pytest.mark.parametrize(
    "actions",
    [np.zeros(8), np.zeros((4, 7)), np.zeros((4, 9)), np.zeros((2, 4, 8)), np.zeros((4, 8), bool)],
)
def test_actions_of_another_dimension_are_refused(actions: np.ndarray[Any, Any]) -> None:
    with pytest.raises(GuardBreached, match=r"\(horizon, 8\) numbers are expected") as caught:
        guards().judge({"actions": actions}, {})
    assert caught.value.breaches == {"chunk/dimension": 1}


def test_an_empty_chunk_breaks_no_rule() -> None:
    result = {"actions": np.zeros((0, 8))}
    rules = ("max=1", "max_change=1", "max_first_change=1")
    assert guards(*rules).judge(result, observed(0.0)) is result


def test_refusing_names_the_rules_and_changes_nothing() -> None:
    given = chunk(0.0, 5.0)
    refusing = guards("max=1", "max_change=0.5", on_breach="refuse")
    with pytest.raises(GuardBreached, match=r"action_0/limit \(1\), action_0/rate \(1\)") as caught:
        refusing.judge({"actions": given}, {})
    assert "ask again with a new observation" in str(caught.value)
    assert given[1, 0] == 5.0


def test_a_header_names_the_rules_broken_most_often_and_never_too_many() -> None:
    breaches = {f"{'n' * 37}{number:03}/rate": 1 + number for number in range(100)}
    fields = header_fields(breaches)
    assert len(fields["breaches"]) == MAX_STAGES
    assert max(breaches.values()) in fields["breaches"].values()
    header = {"v": 1, "kind": "result", "id": [b"c", 1], "attempt": 1, **fields}
    header["timing"] = {f"a stage of someone's own {number}": 1.0 for number in range(MAX_STAGES)}
    assert decode_header(encode_header(header))["breaches"] == fields["breaches"]


@pytest.mark.parametrize(
    "told", [None, {}, "x", [1], {1: 1}, {"x": "1"}, {"x": True}, {"x": 0}, {"x" * 99: 1}]
)
def test_a_policys_own_key_of_that_name_is_told_to_nobody(told: Any) -> None:
    assert header_fields(told) == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["min=[1, 2]"], "env.guards.min has 2 entries, and an action has 8"),
        (["min=2", "max=1"], "env.guards.min is 2 for action_0, above env.guards.max, 1"),
        (["max=nan"], "env.guards.max is nan: finite numbers"),
        (["max=inf"], "env.guards.max is inf: finite numbers"),
        (["max=true"], "env.guards.max is True: finite numbers"),
        (["min=low"], "env.guards.min is 'low': finite numbers"),
        (["min={a: 1}"], "env.guards.min is .*: finite numbers"),
        (["max_change=0"], "env.guards.max_change is 0 for action_0: a number above 0"),
        (["max_first_change=-1"], "env.guards.max_first_change is -1 for action_0"),
        (["joints=[a, b]"], "env.guards.joints has 2 names, and an action has 8"),
        (["joints=[a, b, c, d, e, f, g, a]"], "env.guards.joints: 'a': names of 1 to 40"),
        (["joints=[a, b, c, d, e, f, g, '']"], "env.guards.joints: '': names"),
        (["maximum=1"], "unknown key 'env.guards.maximum': did you mean 'env.guards.max'"),
        (["on_breach=clop"], "env.guards.on_breach: .*expected one of .*clip, refuse"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_the_start(
    settings: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        compose_worker(DROID, *(f"env.guards.{setting}" for setting in settings))


def test_a_first_change_needs_a_state_at_the_same_place() -> None:
    env = compose_worker(DROID, "env.guards.on_breach=clip").env
    env.robot, env.guards.max_first_change = "tests.worker.robots.test_guards.SHORT", 1.0
    with pytest.raises(ValueError, match=r"max_first_change has a number for action_7, but the st"):
        Guards(env)


class Scripted:
    """Answers each observation with the actions in it."""

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        return {"actions": observation["wanted"], "seen": len(observation)}

    def infer_batch(self, observations: list[dict[str, Any]]) -> list[Any]:
        return [self.infer(observation) for observation in observations]


def test_each_request_of_a_batch_is_held_against_its_own_state_and_told_of_its_own() -> None:
    rules = ("max=5", "max_first_change=0.5")
    thread = Device(Scripted(), 4, batch_wait_s=60.0, guards=guards(*rules))
    wanted = [chunk(1.0, 9.0), chunk(1.0, 2.0), chunk(np.nan), chunk(9.0)]
    states = [1.0, 1.2, 0.0, 0.0]
    for number, (actions, state) in enumerate(zip(wanted, states, strict=True)):
        thread.give(job({"wanted": actions, **observed(state)}, sequence=number))
    thread.start()
    answers = [each for each in thread.reports(5) if isinstance(each, Answer)]
    fields = [answer.fields for answer in answers]
    assert [each["kind"] for each in fields] == ["result", "result", "failure", "result"]
    assert [each.get("batch") for each in fields] == [4, 4, None, 4]
    assert fields[0]["breaches"] == {"action_0/limit": 1}
    assert "breaches" not in fields[1]
    assert fields[2]["breaches"] == {"action_0/finite": 1}
    assert fields[2]["code"] == "guard_breached"
    assert fields[3]["breaches"] == {"action_0/limit": 1, "action_0/first": 1}
    results = [decode_body(list(answer.payload)) for answer in answers if answer.payload]
    assert [each["actions"][:, 0].tolist() for each in results] == [[1, 5], [1, 2], [0.5 + 5e-10]]
    assert [CLIPPED in each for each in results] == [True, False, True]
