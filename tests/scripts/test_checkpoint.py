"""`python -m scripts.checkpoint` as a person calls it."""

import json
import os
import re
import shlex
import shutil
from errno import EACCES, ENOSPC
from pathlib import Path

import numpy as np
import pytest

from scripts.checkpoint import main
from tests.golden import CHECKPOINTS, FLOW_CHECKPOINTS, FOLDER, TOKENIZER, cases, overrides
from tests.worker.checkpoints.checkpoint_files import copy_golden, read_weights, write_weights
from tests.worker.checkpoints.lerobot_folders import save_as_lerobot, save_as_older_lerobot
from tests.worker.checkpoints.orbax_files import noise, write_leaves
from tests.worker.composition import compose_worker, make_policy
from worker.errors import CheckpointError

Capture = pytest.CaptureFixture[str]


def settings(printed: str, env: str) -> list[str]:
    """The command line that `inspect` printed for `env`, without its checkpoint."""
    (line,) = (x for x in printed.splitlines() if x.startswith(f"python -m worker env={env} "))
    return [s for s in shlex.split(line)[3:] if not s.startswith("checkpoint=")]


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_inspect_prints_what_serves_it(tmp_path: Path, capsys: Capture, checkpoint: str) -> None:
    folder = tmp_path / "jax"
    shutil.copytree(FOLDER / checkpoint, folder, ignore=lambda *_: ["model.safetensors"])
    assert main(["inspect", str(folder)]) == 0
    right = compose_worker(*overrides(checkpoint))
    found = compose_worker(*settings(capsys.readouterr().out, right.env.name))
    # What no tensor tells is the public configuration's.
    found.model.action_horizon = right.model.action_horizon
    found.model.max_token_len = right.model.max_token_len
    assert found.model == right.model


def test_inspect_says_what_the_pytorch_form_does_not_tell(capsys: Capture) -> None:
    assert main(["inspect", str(FOLDER / "pi05_libero")]) == 0
    printed = capsys.readouterr().out
    assert "model.vision.num_heads=?" in printed
    assert "cannot be read from weights" in printed
    assert re.search(r"assets/physical-intelligence/libero +state: mean \d+, std \d+", printed)


def test_inspect_names_statistics_that_do_not_fit(tmp_path: Path, capsys: Capture) -> None:
    folder = copy_golden("pi0_aloha", tmp_path)
    shutil.copytree(folder / "assets" / "trossen", folder / "assets" / "droid")
    stats = folder / "assets" / "droid" / "norm_stats.json"
    stats.write_text('{"norm_stats": {"state": {"mean": [0], "std": [1]}, "actions": {}}}')
    assert main(["inspect", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"env=droid .*\n  cannot be served: .*the robot has 8 values", printed)


def test_inspect_of_another_robot_names_the_way(tmp_path: Path, capsys: Capture) -> None:
    folder = copy_golden("pi0_aloha", tmp_path)
    (folder / "assets" / "trossen").rename(folder / "assets" / "mine")
    assert main(["inspect", str(folder)]) == 0
    assert "env.asset_id=" in capsys.readouterr().out


def test_convert_makes_a_checkpoint(tmp_path: Path, capsys: Capture) -> None:
    source = tmp_path / "source"
    shutil.copytree(FOLDER / "pi0_aloha", source, ignore=lambda *_: ["model.safetensors"])
    shutil.copy(TOKENIZER, source)
    target = tmp_path / "target"
    assert main(["convert", str(source), str(target), "--dtype", "float32"]) == 0
    assert "beside it assets, paligemma_tokenizer.model" in capsys.readouterr().out
    assert {path.name for path in target.iterdir()} == {
        "model.safetensors",
        "assets",
        TOKENIZER.name,
    }
    assert main(["verify", str(target)]) == 0
    assert main(["convert", str(source), str(target)]) == 1
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert main(["convert", str(source), str(target), "--overwrite"]) == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_converted_file_beside_its_source_is_the_same(tmp_path: Path, dtype: str) -> None:
    folder = tmp_path / "both"
    shutil.copytree(FOLDER / "pi05_droid", folder, ignore=lambda *_: ["model.safetensors"])
    assert main(["convert", str(folder), str(folder), "--dtype", dtype]) == 0
    assert main(["verify", str(folder)]) == 0


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_verify_accepts_golden(capsys: Capture, checkpoint: str) -> None:
    assert main(["verify", str(FOLDER / checkpoint)]) == 0
    printed = capsys.readouterr().out
    assert "every tensor is there" in printed
    assert ("the same values" in printed) == (checkpoint in FLOW_CHECKPOINTS)


def test_verify_notices_a_difference_between_the_forms(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "both"
    shutil.copytree(FOLDER / "pi0_aloha", folder)
    weights = read_weights(folder / "model.safetensors")
    weights["state_proj.bias"] = weights["state_proj.bias"] + np.float32(1e-6)
    write_weights(folder / "model.safetensors", weights)
    assert main(["verify", str(folder)]) == 1
    assert re.search(r"BAD  both forms: state_proj.bias differs", capsys.readouterr().out)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_verify_notices_what_is_not_finite(tmp_path: Path, capsys: Capture, value: float) -> None:
    folder = copy_golden("pi0_aloha", tmp_path)
    weights = read_weights(folder / "model.safetensors")
    weights["state_proj.bias"] = np.full_like(weights["state_proj.bias"], value)
    write_weights(folder / "model.safetensors", weights)
    assert main(["verify", str(folder)]) == 1
    assert "state_proj.bias has values that are not finite" in capsys.readouterr().out


def test_verify_notices_a_missing_tensor_and_missing_statistics(
    tmp_path: Path, capsys: Capture
) -> None:
    folder = copy_golden("pi0_aloha", tmp_path)
    weights = read_weights(folder / "model.safetensors")
    del weights["state_proj.bias"]
    write_weights(folder / "model.safetensors", weights)
    shutil.rmtree(folder / "assets")
    assert main(["verify", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert "has no tensor state_proj.bias" in printed
    assert "no folder below assets/ has norm_stats.json" in printed


STATISTICS = {"mean": [0.0] * 14, "std": [1.0] * 14, "q01": [-1.0] * 14, "q99": [1.0] * 14}
SOUND = [
    {},
    {"q01": None, "q99": None},
    {"q01": [float("nan")] * 14},
    {"q01": [2.0] * 14},
    {"q01": 7, "note": "mine"},
    {"mean": [0.0] * 20, "std": [1.0] * 20},
    {"std": [0.0] * 14},
]
UNSOUND = [
    ({"mean": None}, "no usable mean and std"),
    ({"mean": [None] * 14}, "not finite"),
    ({"mean": [float("nan")] * 14}, "not finite"),
    ({"std": [-1.0] * 14}, "a negative std"),
    ({"mean": [0.0] * 13, "std": [1.0] * 13}, "the robot has 14 values"),
    ({"mean": [0.0] * 13}, "statistics of shape"),
    ({"std": [[1.0]] * 14}, "statistics of shape"),
]


def with_statistics(folder: Path, changes: dict[str, object]) -> Path:
    """The golden pi0 for ALOHA with other statistics."""
    target = copy_golden("pi0_aloha", folder)
    part = {**STATISTICS, **changes}
    path = target / "assets" / "trossen" / "norm_stats.json"
    path.write_text(json.dumps({"norm_stats": {"state": part, "actions": part}}))
    return target


@pytest.mark.parametrize("changes", SOUND, ids=str)
def test_verify_and_worker_take_the_same_statistics(
    tmp_path: Path, capsys: Capture, changes: dict[str, object]
) -> None:
    folder = with_statistics(tmp_path, changes)
    make_policy(*overrides("pi0_aloha", folder))
    assert main(["verify", str(folder)]) == 0, capsys.readouterr().out
    assert main(["inspect", str(folder)]) == 0


@pytest.mark.parametrize(("changes", "says"), UNSOUND, ids=str)
def test_verify_and_worker_refuse_the_same_statistics(
    tmp_path: Path, capsys: Capture, changes: dict[str, object], says: str
) -> None:
    folder = with_statistics(tmp_path, changes)
    with pytest.raises(CheckpointError, match=says):
        make_policy(*overrides("pi0_aloha", folder))
    assert main(["verify", str(folder)]) == 1
    assert re.search(f"BAD  statistics trossen: .*{says}", capsys.readouterr().out)


def test_quantiles_that_cross_are_refused_where_they_are_used(
    tmp_path: Path, capsys: Capture
) -> None:
    folder = copy_golden("pi05_droid", tmp_path)
    path = folder / "assets" / "droid" / "norm_stats.json"
    stats = json.loads(path.read_text())
    stats["norm_stats"]["actions"]["q01"][3] = 1e6
    path.write_text(json.dumps(stats))
    with pytest.raises(CheckpointError, match="q01 above q99 in dimension 3"):
        make_policy(*overrides("pi05_droid", folder))
    assert main(["verify", str(folder)]) == 1
    assert "actions has q01 above q99 in dimension 3" in capsys.readouterr().out


def test_verify_passes_over_what_no_model_reads(tmp_path: Path, capsys: Capture) -> None:
    folder = copy_golden("pi0_aloha", tmp_path)
    weights = read_weights(folder / "model.safetensors")
    unused = "paligemma_with_expert.gemma_expert.lm_head.weight"
    weights[unused] = np.full_like(weights[unused], np.nan)
    write_weights(folder / "model.safetensors", weights)
    assert main(["verify", str(folder)]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("command", ["inspect", "verify", "convert"])
@pytest.mark.parametrize("older", [False, True])
def test_lerobots_policies_are_understood(
    tmp_path: Path, capsys: Capture, command: str, older: bool
) -> None:
    source = tmp_path / "run" / "checkpoints" / "last" / "pretrained_model"
    if older:
        save_as_older_lerobot("pi0_aloha_sim", source, (14, 14))
    else:
        save_as_lerobot("pi0_aloha_sim", source, (14, 14))
    target = tmp_path / "target"
    more = [str(target), "--dtype", "float32"] if command == "convert" else []
    assert main([command, str(tmp_path / "run"), *more]) == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    served = ["env.adapt_to_pi=false", "env.images={top: cam_high, left: cam_left_wrist,"]
    served[1] += " right: cam_right_wrist}"
    if command == "inspect":
        assert "LeRobot, as pi0" in printed
        assert "top, left, right" in printed
        assert served[0] in settings(printed, "aloha_sim")
        assert "say it with env.images" in printed
        assert "max_token_len" not in printed.partition("cannot be read from weights")[0][-60:]
    if command == "verify":
        assert "ok   statistics: state: MEAN_STD of 14, action: MEAN_STD of 14" in printed
    if command == "convert":
        one, other = (
            make_policy(*lerobot_settings(folder), *served) for folder in (source, target)
        )
        one.load()
        other.load()
        sent = {**cases("pi0_aloha_sim")[0].observation, "seed": 1}
        np.testing.assert_array_equal(one.infer(sent)["actions"], other.infer(sent)["actions"])
        assert main(["verify", str(target)]) == 0


def lerobot_settings(folder: Path) -> list[str]:
    """The sizes of the golden model that no file tells."""
    return [s for s in overrides("pi0_aloha_sim", folder) if "action_horizon" not in s]


def test_verify_names_a_step_that_is_not_known(tmp_path: Path, capsys: Capture) -> None:
    folder = save_as_lerobot("pi05_droid", tmp_path / "p", (8, 8))
    path = folder / "policy_preprocessor.json"
    path.write_text(path.read_text().replace("to_batch_processor", "blurring"))
    assert main(["verify", str(folder)]) == 1
    assert re.search(r"BAD  config.json: .*the step blurring is not", capsys.readouterr().out)
    assert main(["inspect", str(folder)]) == 1
    assert "the step blurring is not known" in capsys.readouterr().err


def test_verify_notices_a_dimension_that_the_weights_do_not_have(
    tmp_path: Path, capsys: Capture
) -> None:
    folder = copy_golden("pi0_aloha", tmp_path)
    (folder / "config.json").write_text('{"action_dim": 31}')
    assert main(["verify", str(folder)]) == 1
    assert re.search(r"BAD  model: .*model.action_dim=", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["inspect", "checkpoint=folder"], "checkpoint=folder: this command takes flags.* folder$"),
        (["convert", "a", "b", "dtype=float32"], "write --dtype float32"),
        (["verify", "a", "download.cache_dir=/data"], "write --cache-dir /data"),
        (["verify", "a", "connections=3"], "write --connections 3"),
    ],
)
def test_the_other_form_is_answered_with_the_right_one(
    capsys: Capture, arguments: list[str], says: str
) -> None:
    assert main(arguments) == 2
    assert re.search(says, capsys.readouterr().err, re.MULTILINE)


def test_a_folder_may_look_like_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy_golden("pi0_aloha", tmp_path).rename(tmp_path / "checkpoint=1")
    assert main(["verify", "checkpoint=1"]) == 0


def test_messages_name_flags_not_the_workers_settings(tmp_path: Path, capsys: Capture) -> None:
    assert main(["inspect", str(tmp_path / "gone")]) == 1
    assert "=" not in capsys.readouterr().err
    blocked = tmp_path / "file"
    blocked.touch()
    command = ["inspect", "s3://bucket/gone", "--cache-dir", str(blocked)]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "--cache-dir names another folder" in said
    assert "model=tiny" not in said


def test_verify_notices_a_tokenizer_of_another_vocabulary(tmp_path: Path, capsys: Capture) -> None:
    folder = copy_golden("pi0_aloha", tmp_path)
    head = "paligemma_with_expert.paligemma.lm_head.weight"
    weights = read_weights(folder / "model.safetensors")
    write_weights(folder / "model.safetensors", {**weights, head: weights[head][:1000]})
    assert main(["verify", str(folder)]) == 1
    assert "1240 tokens, and the model knows 1000" in capsys.readouterr().out


def test_verify_notices_a_damaged_file(tmp_path: Path, capsys: Capture) -> None:
    folder = copy_golden("pi0_aloha", tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert main(["verify", str(folder)]) == 1
    assert "damaged or was not copied completely" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["inspect", "verify", "convert"])
def test_another_model_is_refused(tmp_path: Path, capsys: Capture, command: str) -> None:
    write_leaves(tmp_path, {"state_proj/kernel": noise(4, 4)})
    more = [str(tmp_path / "target")] if command == "convert" else []
    assert main([command, str(tmp_path), *more]) == 1
    captured = capsys.readouterr()
    assert "is no pi0, pi0.5 or pi0-FAST" in captured.out + captured.err


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_no_checkpoint_at_all(tmp_path: Path, capsys: Capture, command: str) -> None:
    assert main([command, str(tmp_path / "gone")]) == 1
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize("number", [EACCES, ENOSPC])
def test_a_target_that_cannot_be_written(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refused(descriptor: int) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setattr(os, "fsync", refused)
    assert main(["convert", str(FOLDER / "pi0_aloha"), str(tmp_path)]) == 1
    assert f"{tmp_path}: {os.strerror(number)}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--help"], ["verify", "--help"], [], ["convert", "x"]])
def test_usage(capsys: Capture, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == (0 if "--help" in arguments else 2)
    captured = capsys.readouterr()
    assert "python -m scripts.checkpoint" in captured.out + captured.err


def test_settings_out_of_range(capsys: Capture) -> None:
    assert main(["verify", str(FOLDER / "pi0_aloha"), "--connections", "0"]) == 2
    assert "connections must be at least 1" in capsys.readouterr().err
