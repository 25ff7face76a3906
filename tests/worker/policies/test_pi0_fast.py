"""pi0-FAST as a policy: its agreement in batches, what it says of itself, and what it refuses."""

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.errors import BadObservation, PolicyFailed
from tests.golden import (
    FAST_CHECKPOINT,
    FAST_TOKENIZER,
    FOLDER,
    cases,
    decodings,
    overrides,
)
from tests.worker.composition import compose_worker, make_fast_policy, make_policy
from worker.__main__ import build
from worker.errors import CheckpointError, SettingsError
from worker.policies.pi0_fast import Pi0FastPolicy
from worker.robots.guards import guards_of

SETTINGS = overrides(FAST_CHECKPOINT)


@pytest.fixture(scope="module")
def policy() -> Pi0FastPolicy:
    made = make_fast_policy(*SETTINGS, "runtime.threads=1", "runtime.slots=2")
    made.load()
    assert made.warm_up() > 0
    return made


def observation() -> dict[str, Any]:
    return cases(FAST_CHECKPOINT)[0].observation


def test_golden_cases_agree_in_one_batch_and_bad_ones_fail_alone(policy: Pi0FastPolicy) -> None:
    golden = cases(FAST_CHECKPOINT)
    sent = [case.observation for case in golden]
    answers = policy.infer_batch([*sent[:2], {"prompt": "fold"}, *sent[2:]])
    assert isinstance(answers.pop(2), BadObservation)
    for case, answer in zip(golden, answers, strict=True):
        assert isinstance(answer, dict)
        np.testing.assert_allclose(answer["actions"], case.actions, atol=1e-3, rtol=0)
        assert set(answer["policy_timing"]) == {"infer_ms", "transform_ms", "model_ms"}


def test_the_seed_changes_nothing_and_noise_is_refused(policy: Pi0FastPolicy) -> None:
    one, other = (policy.infer({**observation(), "seed": s})["actions"] for s in (1, 2))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(BadObservation, match="noise: expected none"):
        policy.infer({**observation(), "noise": np.zeros((10, 8), np.float32)})


def test_every_batch_is_made_ready_before_it_comes(policy: Pi0FastPolicy) -> None:
    assert {1, 2} <= policy.runner._writings.keys()


def test_actions_that_are_not_finite_never_reach_a_robot() -> None:
    broken = make_fast_policy(*SETTINGS)
    broken.load()
    broken.runner.model.vision.head.bias[0] = torch.nan
    with pytest.raises(PolicyFailed, match="not finite"):
        broken.infer(observation())


def test_an_answer_that_is_no_chunk_fails_its_request_alone(
    policy: Pi0FastPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, decoded = policy.runner.__class__.__call__, decodings()

    def second_cut_off(runner: Any, requests: Any) -> Any:
        good, _ = run(runner, requests)
        return [good, decoded[3][0].astype(np.int64)]

    monkeypatch.setattr(policy.runner.__class__, "__call__", second_cut_off)
    answers = policy.infer_batch([observation(), observation()])
    assert isinstance(answers[0], dict)
    assert isinstance(answers[1], PolicyFailed)
    assert re.search(r"wrote no chunk of actions.*ask again", str(answers[1]))


def test_weights_that_write_no_chunk_are_warmed_up_and_refuse_each_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.runtime.fast_runner.MAX_WRITTEN", 20)  # they would write to the end
    untrained = make_fast_policy(*SETTINGS)
    untrained.load()
    weight = untrained.runner.model.vlm.norm.weight
    assert weight is not None
    weight.fill_(-1.0)
    assert untrained.warm_up() > 0
    with pytest.raises(PolicyFailed, match="no chunk of actions"):
        untrained.infer(observation())


def test_a_long_prompt_is_shortened_and_the_robot_is_told(policy: Pi0FastPolicy) -> None:
    assert "prompt_shortened_to" not in policy.infer(observation())
    long = {**observation(), "prompt": "pick up the red cube and " * 100}
    given = policy.transforms.inputs(long)
    assert given.shortened_to is not None
    assert len(given.tokens) <= policy._model.max_token_len
    read = policy.tokenizer.text.decode(given.tokens)
    bins = policy.tokenizer.text.decode(policy.transforms.inputs(observation()).tokens)
    assert read.partition("State: ")[2] == bins.partition("State: ")[2] != ""
    answer = policy.infer_batch([long])[0]
    if isinstance(answer, dict):
        assert answer["prompt_shortened_to"] == given.shortened_to


def test_metadata_says_what_a_robot_needs_to_know() -> None:
    metadata = make_fast_policy(*SETTINGS).metadata
    assert (metadata["model"], metadata["robot"]) == ("pi0_fast", "droid")
    assert (metadata["action_horizon"], metadata["action_dim"]) == (10, 8)
    assert "num_steps" not in metadata
    assert metadata["untrained"] is False


def test_the_digest_follows_the_action_tokenizer_but_not_the_flow(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FAST_TOKENIZER, tmp_path / "fast"))
    settings = [s for s in SETTINGS if not s.startswith("fast_tokenizer=")]

    def digest(*more: str) -> str | None:
        return make_fast_policy(*settings, f"fast_tokenizer='{folder}'", *more).digest

    first = digest()
    assert first == make_fast_policy(*SETTINGS).digest == digest("num_steps=3", "seed=1")
    config = folder / "processor_config.json"
    config.write_text(config.read_text().replace("10", "11"))
    assert digest() != first


def test_the_checkpoints_own_action_tokenizer_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(FOLDER / FAST_CHECKPOINT, folder)
    settings = [*SETTINGS, f"checkpoint='{folder}'", "fast_tokenizer=null"]
    with pytest.raises(CheckpointError, match="no fast_tokenizer/: fast_tokenizer=DIR"):
        make_fast_policy(*settings)
    shutil.copytree(FAST_TOKENIZER, folder / "fast_tokenizer")
    assert make_fast_policy(*settings).digest == make_fast_policy(*SETTINGS).digest


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("fast_tokenizer=nowhere", "nowhere is no action tokenizer: .* cannot be read"),
        ("model.vocab_size=1241", "1240 tokens, the model 1241.*tokenizer= or model.vocab_size="),
        ("model.vlm.mlp_dim=95", "model.vlm.mlp_dim="),
    ],
)
def test_files_that_do_not_fit_are_named(setting: str, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        make_fast_policy(*SETTINGS, setting).load()


def test_a_public_checkpoint_is_not_downloaded_in_vain() -> None:
    with pytest.raises(CheckpointError, match="public checkpoints have no fast_tokenizer/"):
        make_fast_policy("env=droid", "model=pi0_fast")


@pytest.mark.parametrize(
    "settings",
    [["model=pi0_fast", "policy=pi0"], ["model=tiny", "policy=pi0_fast", "fast_tokenizer=null"]],
)
def test_a_policy_refuses_another_ones_model(settings: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"cannot serve model\.architecture="):
        build(compose_worker("env=droid", *settings))


def test_make_policy_of_the_tests_tells_the_two_apart() -> None:
    with pytest.raises(TypeError, match="Pi0FastPolicy"):
        make_policy(*SETTINGS)


def test_its_chunks_are_held_against_guards(policy: Pi0FastPolicy) -> None:
    rules = ("env.guards.on_breach=clip", "env.guards.max_change=0.001")
    guards = guards_of(compose_worker(*SETTINGS, *rules).env)
    assert guards is not None
    plain = policy.infer(observation())
    told = guards.judge(plain, observation())
    assert np.abs(np.diff(plain["actions"], axis=0)).max() > 0.002
    assert np.abs(np.diff(told["actions"], axis=0)).max() <= 0.0010001
    np.testing.assert_array_equal(told["actions"][0], plain["actions"][0])
    assert set(told) == {*plain, "clipped_actions"}
