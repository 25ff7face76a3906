"""LeRobot's checkpoints as saved: the same answers as their weights give in openpi's form."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import load_file, save_file

from tests.golden import FAST_CHECKPOINT, TOKENIZER, Case, cases, overrides
from tests.worker.checkpoints.checkpoint_files import write_shards
from tests.worker.checkpoints.lerobot_folders import (
    HEAD,
    VLM,
    save_as_lerobot,
    save_as_older_lerobot,
    step,
)
from tests.worker.composition import make_fast_policy, make_policy
from worker.errors import CheckpointError, SettingsError
from worker.models.gemma import rope_at
from worker.policies.pi0 import Pi0Policy

SIM, DROID = (14, 14), (8, 8)
TOP = "env.images={top: images/cam_high, left: cam_left_wrist, right: cam_right_wrist}"
SIDE = "env.images={side: observation/exterior_image_1_left, hand: observation/wrist_image_left}"


def settings(checkpoint: str, folder: Path, *more: str) -> list[str]:
    """As a user gives them: the sizes that LeRobot's file has are left out."""
    told = ("action_dim", "action_horizon", "max_token_len", "discrete_state_input")
    left_out = tuple(f"model.{key}=" for key in told)
    kept = [s for s in overrides(checkpoint, folder) if not s.startswith(left_out)]
    images = TOP if checkpoint.startswith("pi0_aloha") else SIDE
    if any(setting.startswith("env.images=") for setting in more):
        return [*kept, *more]
    return [*kept, images, *more]


def as_trained_by_openpi(config: dict[str, Any]) -> None:
    """What LeRobot's older files say of weights that were."""
    config["adapt_to_pi_aloha"] = True


def sim_folder(folder: Path) -> Path:
    return save_as_lerobot(
        "pi0_aloha_sim", folder, SIM, change={"config.json": as_trained_by_openpi}
    )


def without_underscores(case: Case) -> bool:
    """LeRobot's pi0 reads them as they are; openpi's reads spaces."""
    return "_" not in case.observation["prompt"]


def assert_golden(policy: Pi0Policy, checkpoint: str) -> None:
    policy.load()
    told = [case for case in cases(checkpoint) if without_underscores(case)]
    assert len(told) == 3
    for case in told:
        sent = {**case.observation, "noise": case.noise}
        given = policy.transforms.inputs(sent)
        assert given.tokens.tolist() == case.tokens.tolist()
        np.testing.assert_allclose(policy.infer(sent)["actions"], case.actions, atol=1e-3)


def test_pi0_gives_the_golden_actions(tmp_path: Path) -> None:
    folder = sim_folder(tmp_path / "pretrained_model")
    policy = make_policy(*settings("pi0_aloha_sim", folder))
    assert policy.metadata["action_horizon"] == 50
    assert_golden(policy, "pi0_aloha_sim")


def test_pi0_as_it_was_saved_before_processors_gives_the_golden_actions(tmp_path: Path) -> None:
    folder = save_as_older_lerobot("pi0_aloha_sim", tmp_path / "older", SIM)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"type"', '"adapt_to_pi_aloha": true, "type"'))
    assert_golden(make_policy(*settings("pi0_aloha_sim", folder)), "pi0_aloha_sim")


@pytest.mark.parametrize("stored", ["embed_tokens", "both", "shards", "without prefix"])
def test_the_weights_may_be_stored_in_other_ways(tmp_path: Path, stored: str) -> None:
    folder = sim_folder(tmp_path / "pretrained_model")
    first = make_policy(*settings("pi0_aloha_sim", folder))
    first.load()
    file = folder / "model.safetensors"
    weights = load_file(file)
    if stored in ("embed_tokens", "both"):
        weights[f"model.{VLM}embed_tokens.weight"] = weights[f"model.{HEAD}"].copy()
    if stored == "embed_tokens":
        del weights[f"model.{HEAD}"]
    if stored == "without prefix":
        weights = {name.removeprefix("model."): array for name, array in weights.items()}
    file.unlink()
    if stored == "shards":
        write_shards(folder, weights, 2)
    else:
        save_file(weights, file)
    other = make_policy(*settings("pi0_aloha_sim", folder))
    other.load()
    sent = {**cases("pi0_aloha_sim")[0].observation, "seed": 1}
    np.testing.assert_array_equal(first.infer(sent)["actions"], other.infer(sent)["actions"])


@pytest.mark.parametrize("at", ["", "checkpoints", "checkpoints/000200", "checkpoints/last"])
def test_a_runs_folder_leads_to_its_last_policy(tmp_path: Path, at: str) -> None:
    step = tmp_path / "run" / "checkpoints" / "000200"
    sim_folder(step / "pretrained_model")
    (step.parent / "last").symlink_to("000200")
    policy = make_policy(*settings("pi0_aloha_sim", tmp_path / "run" / at))
    direct = make_policy(*settings("pi0_aloha_sim", step / "pretrained_model"))
    assert policy.digest == direct.digest


def expected_prompt(case: Case, folder: Path, dims: int, form: str) -> list[int]:
    """LeRobot's prompt, computed anew from its statistics and the observation."""
    stats = load_file(folder / "policy_preprocessor_step_2.safetensors")
    joints = np.asarray(case.observation["observation/joint_position"], np.float32)
    gripper = np.asarray(case.observation["observation/gripper_position"], np.float32).reshape(-1)
    low, high = stats["observation.state.q01"], stats["observation.state.q99"]
    state = np.zeros(32, np.float32)
    state[:dims] = 2 * (np.concatenate([joints, gripper]) - low) / (high - low) - 1
    bins = np.digitize(state, np.linspace(-1, 1, 257)[:-1]) - 1
    text = case.observation["prompt"].strip().replace("_", " ").replace("\n", " ")
    numbers = " ".join(map(str, bins))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(TOKENIZER))
    ids: list[int] = processor.encode(form.format(text, numbers), add_bos=True)
    return ids


def test_pi05_reads_the_state_padded_to_32_numbers(tmp_path: Path) -> None:
    folder = save_as_lerobot("pi05_droid", tmp_path / "pretrained_model", DROID)
    policy = make_policy(*settings("pi05_droid", folder))
    public = make_policy(*overrides("pi05_droid"))
    policy.load()
    public.load()
    assert policy.metadata["action_horizon"] == 15
    for case in cases("pi05_droid"):
        sent = {**case.observation, "noise": case.noise}
        given = policy.transforms.inputs(sent)
        form = "Task: {}, State: {};\nAction: "
        assert given.tokens.tolist() == expected_prompt(case, folder, 8, form)
        assert len(given.tokens) > len(case.tokens)
        # The public policy, reading the same prompt.
        same = public.transforms.inputs(sent)
        object.__setattr__(same, "tokens", given.tokens)
        expected = public.transforms.outputs(public.runner([same])[0], same)
        np.testing.assert_allclose(policy.infer(sent)["actions"], expected, atol=1e-4)


def test_a_value_at_the_edge_lies_in_the_bin_of_training(tmp_path: Path) -> None:
    folder = save_as_lerobot("pi05_droid", tmp_path / "pretrained_model", DROID)
    policy = make_policy(*settings("pi05_droid", folder))
    low = load_file(folder / "policy_preprocessor_step_2.safetensors")["observation.state.q01"]
    # As a float64 it is below the statistic's float32, as which training saw it.
    state = np.nextafter(low.astype(np.float64), -np.inf)
    assert (policy.transforms._stats.state.normalize(state) == -1.0).all()


def test_pi0_fast_reads_one_token_more_and_answers_without_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_as_lerobot(FAST_CHECKPOINT, tmp_path / "pretrained_model", DROID)
    policy = make_fast_policy(*settings(FAST_CHECKPOINT, folder))
    policy.load()
    case = cases(FAST_CHECKPOINT)[0]
    given = policy.transforms.inputs(case.observation)
    expected = expected_prompt(case, folder, 8, "Task: {}, State: {};\n")
    assert given.tokens.tolist() == [*expected, 2]
    assert list(given.images) == ["side", "hand"]
    places: list[int] = []

    def seen(positions: Any, head_dim: int) -> Any:
        places.append(int(positions))
        return rope_at(positions, head_dim)

    monkeypatch.setattr("worker.models.fast.rope_at", seen)
    policy.runner([given])
    images = 2 * policy._model.vision.tokens
    assert places[:3] == [images + len(given.tokens) + i for i in range(3)]


def test_cameras_come_in_the_order_of_the_checkpoint(tmp_path: Path) -> None:
    folder = save_as_lerobot("pi05_droid", tmp_path / "p", DROID, cameras=("hand", "side"))
    policy = make_policy(*settings("pi05_droid", folder))
    sent = dict(cases("pi05_droid")[0].observation)
    given = policy.transforms.inputs(sent)
    other = make_policy(*overrides("pi05_droid")).transforms.inputs(sent)
    assert list(given.images) == ["hand", "side"]
    np.testing.assert_array_equal(given.images["hand"], other.images["left_wrist_0_rgb"])
    np.testing.assert_array_equal(given.images["side"], other.images["base_0_rgb"])


@pytest.mark.parametrize(
    "cameras",
    [
        ("base_0_rgb", "left_wrist_0_rgb"),
        ("exterior_image_1_left", "wrist_image_left"),
        ("observation/exterior_image_1_left", "wrist_image_left"),
    ],
)
def test_cameras_of_the_same_name_need_no_setting(tmp_path: Path, cameras: tuple[str, str]) -> None:
    folder = save_as_lerobot("pi05_droid", tmp_path / "p", DROID, cameras=cameras)
    policy = make_policy(*settings("pi05_droid", folder, "env.images=null"))
    assert list(policy.transforms.cameras) == list(cameras)


def test_a_rename_of_cameras_is_followed(tmp_path: Path) -> None:
    prefix = "observation.images."

    def rename(content: dict[str, Any]) -> None:
        content["steps"][0]["config"]["rename_map"] = {
            f"{prefix}wrist_image_left": f"{prefix}hand",
            f"{prefix}exterior_image_1_left": f"{prefix}side",
        }

    change = {"policy_preprocessor.json": rename}
    folder = save_as_lerobot("pi05_droid", tmp_path / "p", DROID, change=change)
    policy = make_policy(*settings("pi05_droid", folder, "env.images=null"))
    paths = [image.path[0] for image in policy.transforms.cameras.values()]
    assert paths == ["observation/exterior_image_1_left", "observation/wrist_image_left"]


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("env.images=null", r"not clear which of them is side: say it with env\.images"),
        ("env.images={side: nowhere, hand: observation/wrist_image_left}", "which of them is side"),
        ("env.images={side: wrist_image_left, hand: wrist_image_left}", "which of them is hand"),
        (f"{SIDE[:-1]}, third: x}}", "env.images names third, but .* cameras are side, hand"),
        ("model.action_horizon=10", r"model\.action_horizon=10: .*config\.json says .*horizon=15"),
        ("model.action_dim=31", r"model\.action_dim=31: .*says action_dim=32"),
        ("model.discrete_state_input=false", "says discrete_state_input=True"),
        ("model.normalization=zscore", "says STATE QUANTILES and ACTION QUANTILES"),
        ("env=libero", "env.robot=libero has 7 numbers in its action, .* trained with 8"),
        ("env.delta_mask=[true]", "use_delta_joint_actions_aloha.*env.delta_mask=null"),
        ("model=pi0", "is a pi05's: model=pi05"),
    ],
)
def test_settings_that_contradict_the_checkpoint_are_named(
    tmp_path: Path, setting: str, says: str
) -> None:
    folder = save_as_lerobot("pi05_droid", tmp_path / "p", DROID)
    with pytest.raises(SettingsError, match=says):
        make_policy(*settings("pi05_droid", folder, setting))


def test_alohas_translation_is_off_where_the_checkpoint_does_not_say_otherwise(
    tmp_path: Path,
) -> None:
    folder = save_as_lerobot("pi0_aloha_sim", tmp_path / "p", SIM)
    with pytest.raises(SettingsError, match=r"adapt_to_pi_aloha.*env\.adapt_to_pi=false"):
        make_policy(*settings("pi0_aloha_sim", folder))
    make_policy(*settings("pi0_aloha_sim", folder, "env.adapt_to_pi=false"))


def before(change: Callable[[list[dict[str, Any]]], object]) -> dict[str, Any]:
    return {"policy_preprocessor.json": lambda content: change(content["steps"])}


def after(change: Callable[[list[dict[str, Any]]], object]) -> dict[str, Any]:
    return {"policy_postprocessor.json": lambda content: change(content["steps"])}


def config(**changes: Any) -> dict[str, Any]:
    return {"config.json": lambda content: content.update(changes)}


RELATIVE = step("relative_actions_processor", enabled=True)
RENAME = step(
    "rename_observations_processor", rename_map={"observation.joints": "observation.state"}
)
REFUSED = [
    (
        before(lambda s: s.append(step("smoothing_processor"))),
        "the step smoothing_processor is not",
    ),
    (before(lambda s: s.append({"class": "mine.Smooth"})), "the step mine.Smooth is not known"),
    (before(lambda s: s.append(RELATIVE)), "relative_actions_processor is on"),
    (
        after(lambda s: s.append(step("absolute_actions_processor", enabled=True))),
        "_processor is on",
    ),
    (after(lambda s: s.append(step("clipping"))), "the step clipping is not known"),
    (before(lambda s: s.__setitem__(0, RENAME)), "renames observation.joints to observation.state"),
    (
        before(lambda s: s[3]["config"].update(prompt_key="p")),
        "has prompt_key, a form of the prompt",
    ),
    (
        before(lambda s: s.__setitem__(3, step("pi0_new_line_processor"))),
        "pi0_new_line_processor is",
    ),
    (before(lambda s: s.pop(3)), "has the step pi05_prepare_state_.* 0 times"),
    (before(lambda s: s.append(s.pop(2))), "normalizer_processor comes after"),
    (before(lambda s: s.pop(2)), "has the step normalizer_processor 0 times"),
    (before(lambda s: s[2].pop("state_file")), "has no statistics, as in a base model"),
    (before(lambda s: s[2].update(state_file="gone")), "gone cannot be read"),
    (before(lambda s: s[2]["config"]["norm_map"].update(VISUAL="MEAN_STD")), "images by MEAN_STD"),
    (before(lambda s: s[2]["config"]["norm_map"].update(STATE="MAGIC")), "the normalisation MAGIC"),
    (before(lambda s: s[4]["config"].update(tokenizer_name="bert")), "has the tokenizer bert"),
    (before(lambda s: s.clear()), "has no steps"),
    (config(type="act"), "LeRobot policy of type act; served are pi0, pi05, pi0_fast"),
    (config(use_relative_actions=True), "use_relative_actions is on"),
    (config(input_features={"observation.environment_state": {}}), "has the input_features"),
    (config(chunk_size="many"), "no LeRobot policy's that can be read"),
    (config(output_features={}), "no LeRobot policy's that can be read: KeyError"),
]


@pytest.mark.parametrize(("change", "says"), REFUSED)
def test_what_is_not_understood_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    folder = save_as_lerobot("pi05_droid", tmp_path / "p", DROID, change=change)
    with pytest.raises(CheckpointError, match=says):
        make_policy(*settings("pi05_droid", folder))


@pytest.mark.parametrize("mode", ["MIN_MAX", "IDENTITY"])
def test_other_normalisations_are_understood(tmp_path: Path, mode: str) -> None:
    def change(content: dict[str, Any]) -> None:
        for one in content["steps"]:
            one["config"].get("norm_map", {}).update(STATE=mode)

    folder = save_as_lerobot(
        "pi05_droid", tmp_path / "p", DROID, change={"policy_preprocessor.json": change}
    )
    file = folder / "policy_preprocessor_step_2.safetensors"
    stats = load_file(file)
    low, high = np.full(8, -2, np.float32), np.linspace(2, 3, 8, dtype=np.float32)
    stats |= {"observation.state.min": low, "observation.state.max": high}
    save_file(stats, file)
    policy = make_policy(*settings("pi05_droid", folder))
    expected = 2 * (1 - low) / (high - low) - 1 if mode == "MIN_MAX" else np.ones(8)
    found = policy.transforms._stats.state.normalize(np.ones(8))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("wrong", ["nan", "crossed", "short"])
def test_statistics_that_cannot_be_used_are_refused(tmp_path: Path, wrong: str) -> None:
    folder = save_as_lerobot("pi05_droid", tmp_path / "p", DROID)
    file = folder / "policy_postprocessor_step_0.safetensors"
    stats = load_file(file)
    if wrong == "nan":
        stats["action.q01"][0] = np.nan
    if wrong == "crossed":
        stats["action.q01"][0] = stats["action.q99"][0] + 1
    if wrong == "short":
        stats["action.q01"] = stats["action.q01"][:7]
    save_file(stats, file)
    says = {"nan": "not finite", "crossed": "q01 above q99 in dimension 0", "short": "of shape"}
    with pytest.raises(CheckpointError, match=re.escape(says[wrong])):
        make_policy(*settings("pi05_droid", folder))


def test_the_digest_follows_statistics_and_steps(tmp_path: Path) -> None:
    folder = save_as_lerobot("pi05_droid", tmp_path / "p", DROID)
    digests = {make_policy(*settings("pi05_droid", folder)).digest}
    file = folder / "policy_postprocessor_step_0.safetensors"
    stats = load_file(file)
    stats["action.q99"][0] += 1
    save_file(stats, file)
    digests.add(make_policy(*settings("pi05_droid", folder)).digest)
    copy = shutil.copytree(folder, tmp_path / "copy")
    digests.add(make_policy(*settings("pi05_droid", Path(copy))).digest)
    assert len(digests) == 2


def test_older_statistics_that_are_missing_are_named(tmp_path: Path) -> None:
    folder = save_as_lerobot("pi0_aloha_sim", tmp_path / "p", SIM)
    (folder / "policy_preprocessor.json").unlink()
    with pytest.raises(CheckpointError, match="no statistics are beside it or in the weights"):
        make_policy(*settings("pi0_aloha_sim", folder))
    droid = save_as_lerobot("pi05_droid", tmp_path / "d", DROID)
    (droid / "policy_postprocessor.json").unlink()
    with pytest.raises(CheckpointError, match="so the normalisation is not known"):
        make_policy(*settings("pi05_droid", droid))
