"""The policy object: what it says of itself, where noise comes from, and who fails."""

import subprocess
import sys
from errno import EACCES
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from client.errors import BadObservation, PolicyFailed
from tests.golden import FOLDER, cases, overrides
from tests.worker.checkpoints.checkpoint_files import copy_golden
from tests.worker.composition import make_policy, model_config
from worker.errors import CheckpointError
from worker.policies.pi0 import Pi0Policy
from worker.runtime.loading import load_model

FRAME = np.full((3, 48, 64), 9, np.uint8)
SIM: dict[str, Any] = {"state": np.zeros(14), "images": {"cam_high": FRAME}}
REST = [0, -0.96, 1.16, 0, -0.3, 0, 0.1] * 2


@pytest.fixture(scope="module")
def tiny() -> Pi0Policy:
    policy = make_policy("env=aloha_sim", "model=tiny", "num_steps=2", "runtime.threads=2")
    policy.load()
    policy.warm_up()
    return policy


def test_metadata_says_what_a_robot_needs_to_know() -> None:
    metadata = make_policy("env=aloha", "model=tiny", "default_prompt=fold").metadata
    assert metadata["robot"] == "aloha"
    assert metadata["model"] == "tiny"
    assert (metadata["action_horizon"], metadata["action_dim"]) == (50, 14)
    assert metadata["control_hz"] == 50
    assert metadata["reset_pose"] == [0, -1.5, 1.5, 0, 0, 0]
    assert metadata["untrained"] is True
    assert metadata["observation"]["images"]["cam_high"]["shape"] == [3, "H", "W"]
    assert metadata["observation"]["prompt"]["optional"] is True
    golden = make_policy(*overrides("pi0_aloha_sim")).metadata
    assert "reset_pose" not in golden
    assert golden["untrained"] is False


def test_nothing_heavy_is_imported_before_loading() -> None:
    program = (
        "import sys\n"
        "from tests.worker.composition import make_policy, model_config\n"
        "policy = make_policy('env=aloha_sim', 'model=tiny')\n"
        "assert policy.metadata['digest'] == policy.digest\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_an_untrained_tiny_model_keeps_the_simulated_arms_near_rest() -> None:
    policy = make_policy("env=aloha_sim", "model=tiny", "num_steps=2", "model.action_horizon=49")
    policy.load()
    actions = policy.infer(SIM)["actions"]
    assert actions.shape == (49, 14)
    np.testing.assert_allclose(actions.mean(axis=0), REST, atol=0.05)
    assert np.abs(actions - REST).max() < 0.5


def test_the_tiny_model_is_small_and_says_that_it_is_untrained(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = make_policy("env=droid", "model=tiny")
    policy.load()
    assert "UNTRAINED" in caplog.text
    assert "checkpoint=" in caplog.text
    plain = load_model(model_config("model=tiny"), None, torch.device("cpu"), torch.float32)
    assert 4e6 < sum(p.numel() for p in plain.parameters()) < 6e6


def test_the_tiny_model_is_trained_for_the_simulator(caplog: pytest.LogCaptureFixture) -> None:
    policy = make_policy("env=aloha_sim", "model=tiny")
    assert policy.metadata["untrained"] is False
    policy.load()
    assert "UNTRAINED" not in caplog.text


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("model.vision.depth=1", "need model.vision.depth=2, not 1"),
        ("model.normalization=quantile", "need model.normalization=zscore, not quantile"),
        ("env.asset_id=trossen", "for env.asset_id=lerobot/aloha_sim_transfer_cube_human"),
    ],
)
def test_trained_weights_that_do_not_fit_are_left_out_and_named(
    caplog: pytest.LogCaptureFixture, setting: str, says: str
) -> None:
    policy = make_policy("env=aloha_sim", "model=tiny", setting)
    assert policy.metadata["untrained"] is True
    policy.load()
    assert "UNTRAINED" in caplog.text
    assert says in caplog.text


@pytest.mark.parametrize("env", ["aloha", "aloha_sim", "aloha_towel", "droid", "libero"])
def test_every_env_runs_the_tiny_model(env: str) -> None:
    policy = make_policy(f"env={env}", "model=tiny", "num_steps=1")
    policy.load()
    policy.warm_up()


def test_answers_carry_their_times_in_milliseconds(tiny: Pi0Policy) -> None:
    timing = tiny.infer(SIM)["policy_timing"]
    assert set(timing) == {"infer_ms", "transform_ms", "model_ms"}
    assert timing["infer_ms"] == pytest.approx(timing["transform_ms"] + timing["model_ms"])
    assert min(timing.values()) > 0


def test_one_seed_gives_one_answer(tiny: Pi0Policy) -> None:
    one, again, other = (tiny.infer({**SIM, "seed": seed})["actions"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3


def test_the_workers_seed_changes_noise_and_digest(tiny: Pi0Policy) -> None:
    settings = ["env=aloha_sim", "model=tiny", "num_steps=2"]
    other = make_policy(*settings, "seed=1")
    other.load()
    assert other.digest != tiny.digest == make_policy(*settings, "device=cpu").digest
    difference = (
        other.infer({**SIM, "seed": 1})["actions"] - tiny.infer({**SIM, "seed": 1})["actions"]
    )
    assert np.abs(difference).max() > 1e-3


def test_given_noise_wins_over_the_seed(tiny: Pi0Policy) -> None:
    noise = np.zeros((50, 32), np.float32)
    one, other = (tiny.infer({**SIM, "noise": noise, "seed": s})["actions"] for s in (1, 2))
    np.testing.assert_array_equal(one, other)


def test_a_batch_answers_each_as_if_it_were_alone(tiny: Pi0Policy) -> None:
    wrist = {**SIM, "images": {"cam_high": FRAME, "cam_left_wrist": FRAME}, "seed": 3}
    observations = [{**SIM, "seed": 1}, wrist, {"state": 1}, {**SIM, "seed": 2, "prompt": "hold"}]
    answers = tiny.infer_batch(observations)
    assert isinstance(answers[2], BadObservation)
    for index in (0, 1, 3):
        answer = answers[index]
        assert isinstance(answer, dict)
        alone = tiny.infer(observations[index])["actions"]
        np.testing.assert_allclose(answer["actions"], alone, atol=1e-5)


def test_golden_cases_agree_in_batches() -> None:
    policy = make_policy(*overrides("pi05_droid"))
    policy.load()
    golden = cases("pi05_droid")
    answers = policy.infer_batch([{**c.observation, "noise": c.noise} for c in golden])
    for case, answer in zip(golden, answers, strict=True):
        assert isinstance(answer, dict)
        np.testing.assert_allclose(answer["actions"], case.actions, atol=1e-3)


def test_actions_that_are_not_finite_never_reach_a_robot() -> None:
    policy = make_policy("env=aloha_sim", "model=tiny", "num_steps=1")
    policy.load()
    policy.runner.model.action_out_proj.bias[3] = float("nan")
    with pytest.raises(PolicyFailed, match="not finite"):
        policy.infer(SIM)


@pytest.mark.parametrize("checkpoint", ["pi0_aloha", "pi05_droid"])
def test_a_long_prompt_is_shortened_and_the_robot_is_told(checkpoint: str) -> None:
    policy = make_policy(*overrides(checkpoint), "num_steps=1")
    policy.load()
    sent = {**cases(checkpoint)[0].observation, "seed": 1}
    assert "prompt_shortened_to" not in policy.infer(sent)
    answer = policy.infer({**sent, "prompt": "pick up the red cube and " * 100})
    told = answer["prompt_shortened_to"]
    assert told.startswith("pick up the red cube")
    np.testing.assert_array_equal(
        answer["actions"], policy.infer({**sent, "prompt": told})["actions"]
    )


def test_infer_before_load_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"load\(\)"):
        make_policy("model=tiny").infer(SIM)


@pytest.mark.parametrize("size", [1000, 2000])
def test_a_tokenizer_of_another_vocabulary_is_refused(size: int) -> None:
    with pytest.raises(CheckpointError, match=f"1240 tokens, the model {size}"):
        make_policy("model=tiny", f"model.vocab_size={size}")


def test_a_checkpoint_that_may_not_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    exists = Path.exists

    def refused(path: Path) -> bool:
        if path.name == "pi0_aloha":
            raise PermissionError(EACCES, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", refused)
    with pytest.raises(CheckpointError, match="pi0_aloha: Permission denied; does this user"):
        make_policy(*overrides("pi0_aloha"))


def test_a_truncated_checkpoint_is_refused_before_torch(tmp_path: Path) -> None:
    folder = copy_golden("pi0_aloha", tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not copied completely"):
        make_policy(*overrides("pi0_aloha"), f"checkpoint='{folder}'")


def test_a_tiny_model_can_have_a_checkpoint_of_its_own() -> None:
    settings = [s for s in overrides("pi0_aloha") if not s.startswith(("model=", "tokenizer="))]
    policy = make_policy(*settings, "model=tiny")
    assert policy.metadata["untrained"] is False
    assert policy.digest != make_policy(*overrides("pi0_aloha")).digest
    policy.load()
    case = cases("pi0_aloha")[0]
    actions = policy.infer({**case.observation, "noise": case.noise})["actions"]
    np.testing.assert_allclose(actions, case.actions, atol=1e-3)
    assert (FOLDER / "pi0_aloha").is_dir()
