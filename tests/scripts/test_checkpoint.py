"""`python -m scripts.checkpoint` as a person calls it."""

import os
import re
import shlex
import shutil
from errno import EACCES, ENOSPC
from pathlib import Path

import numpy as np
import pytest

from scripts.checkpoint import main
from tests.golden import CHECKPOINTS, FLOW_CHECKPOINTS, FOLDER, TOKENIZER, overrides
from tests.worker.checkpoints.checkpoint_files import copy_golden, read_weights, write_weights
from tests.worker.checkpoints.orbax_files import noise, write_leaves
from tests.worker.composition import compose_worker

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
