"""Finding weights in what people have, whatever its path, or saying what to do instead."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from scripts.checkpoint import main
from tests.golden import FOLDER, cases, overrides
from tests.worker.checkpoints.checkpoint_files import copy_golden, read_weights, write_weights
from tests.worker.composition import make_policy
from worker.checkpoints.download import Cache
from worker.checkpoints.folders import asset_ids, find_weights, local_folder
from worker.config import DownloadConfig
from worker.errors import CheckpointError, SettingsError

CACHE = Cache(DownloadConfig(cache_dir="nowhere"))


def weights_in(folder: Path) -> Path:
    """An empty file where weights would be."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    return folder


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_an_adapter_alone_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=f"an adapter only \\({name}\\): merge it"):
        find_weights(tmp_path)


def test_adapters_among_the_weights_are_named(tmp_path: Path) -> None:
    folder = copy_golden("pi0_aloha", tmp_path)
    weights = read_weights(folder / "model.safetensors")
    name = "paligemma_with_expert.paligemma.model.language_model.layers.0.mlp.up_proj.lora_A.weight"
    write_weights(folder / "model.safetensors", {**weights, name: np.zeros((4, 4), np.float32)})
    policy = make_policy(*overrides("pi0_aloha", folder))
    with pytest.raises(CheckpointError, match="holds LoRA adapters .*: merge them"):
        policy.load()


@pytest.mark.parametrize("level", ["", "exp", "exp/run"])
def test_a_runs_folder_names_its_last_step(tmp_path: Path, level: str) -> None:
    run = tmp_path / "exp" / "run"
    for step in ("500", "10000", "9000"):
        (run / step / "params").mkdir(parents=True)
    (run / "wandb").mkdir()
    folder = tmp_path / level
    if level == "":
        with pytest.raises(CheckpointError, match="has neither .* it holds exp"):
            find_weights(folder)
        return
    with pytest.raises(CheckpointError) as error:
        find_weights(folder)
    assert "a run with 3 checkpoints in it" in str(error.value)
    assert str(error.value).endswith(f"checkpoint={run / '10000'}")


def test_a_lerobot_run_without_a_last_link_names_its_last_step(tmp_path: Path) -> None:
    for step in ("000100", "000200"):
        weights_in(tmp_path / "checkpoints" / step / "pretrained_model")
    with pytest.raises(CheckpointError, match=r"2 checkpoints in it.*checkpoint=.*000200$"):
        find_weights(local_folder(str(tmp_path), CACHE))


@pytest.mark.parametrize(
    "name",
    [
        "lerobot/pi0",
        "lerobot/pi05_libero-base",
        "hf://lerobot/pi0",
        "https://hub.example/lerobot/pi0",
    ],
)
def test_an_id_of_a_model_hub_says_what_to_do(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"hf download lerobot/pi.* --local-dir DIR.*=DIR"):
        local_folder(name, CACHE)


def test_a_file_names_its_folder(tmp_path: Path) -> None:
    file = weights_in(tmp_path / "a") / "model.safetensors"
    with pytest.raises(CheckpointError, match="is a file: name the folder that it lies in"):
        local_folder(str(file), CACHE)


ODD = ["a#b?c", "a%20b|c d", "ä&c=d%zz", "x|zip:", "a:b[c]{d}"]


@pytest.mark.parametrize("name", ODD)
def test_a_path_may_have_any_characters(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / name
    shutil.copytree(FOLDER / "pi0_aloha", folder, ignore=lambda *_: ["model.safetensors"])
    assert main(["verify", str(folder)]) == 0
    target = tmp_path / f"{name} converted"
    assert main(["convert", str(folder), str(target), "--dtype", "float32"]) == 0
    assert main(["verify", str(target)]) == 0
    assert "BAD" not in capsys.readouterr().out


def test_a_sound_checkpoint_in_an_odd_path_is_served(tmp_path: Path) -> None:
    folder = tmp_path / "a#b?c%41|d"
    shutil.copytree(FOLDER / "pi0_aloha", folder, ignore=lambda *_: ["model.safetensors"])
    policy = make_policy(*overrides("pi0_aloha", folder))
    policy.load()
    case = cases("pi0_aloha")[0]
    actions = policy.infer({**case.observation, "noise": case.noise})["actions"]
    np.testing.assert_allclose(actions, case.actions, atol=1e-3)


def test_the_home_folder_is_understood_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    copy_golden("pi0_aloha", tmp_path)
    assert main(["convert", "~/pi0_aloha", "~/made", "--dtype", "float32"]) == 0
    assert main(["verify", "~/made"]) == 0
    assert main(["convert", "~/made", f"file://{tmp_path}/again"]) == 0
    assert (tmp_path / "again" / "model.safetensors").is_file()
    make_policy(*overrides("pi0_aloha", "~/made"))


def test_links_lead_inspect_and_verify_to_what_the_worker_serves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, folder = tmp_path / "kept", tmp_path / "linked"
    kept.mkdir()
    shutil.copytree(FOLDER / "pi0_aloha" / "params", kept / "weights")
    shutil.copytree(FOLDER / "pi0_aloha" / "assets" / "trossen", kept / "numbers")
    (folder / "assets").mkdir(parents=True)
    (folder / "params").symlink_to(kept / "weights")
    (folder / "assets" / "trossen").symlink_to(kept / "numbers")
    (kept / "numbers" / "back").symlink_to(folder)
    assert asset_ids(folder) == ["trossen"]
    assert main(["inspect", str(folder)]) == 0
    assert "env=aloha " in capsys.readouterr().out
    assert main(["verify", str(folder)]) == 0
    make_policy(*overrides("pi0_aloha", folder)).load()
    (folder / "assets" / "trossen").unlink()
    (folder / "assets").rmdir()
    (folder / "assets").symlink_to(FOLDER / "pi0_aloha" / "assets")
    assert asset_ids(folder) == ["trossen"]


def test_the_digest_follows_files_behind_links(tmp_path: Path) -> None:
    folder = tmp_path / "linked"
    shutil.copytree(FOLDER / "pi0_aloha" / "params", tmp_path / "kept")
    shutil.copytree(FOLDER / "pi0_aloha" / "assets", folder / "assets")
    (folder / "params").mkdir()
    for path in (tmp_path / "kept").iterdir():
        (folder / "params" / path.name).symlink_to(path)
    first = make_policy(*overrides("pi0_aloha", folder)).digest
    largest = max((p for p in (tmp_path / "kept").rglob("*")), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    assert make_policy(*overrides("pi0_aloha", folder)).digest != first


def openpi_config(folder: Path, **sizes: object) -> Path:
    """As openpi's converter writes it beside the weights."""
    config = {"action_dim": 32, "paligemma_variant": "gemma_2b", "precision": "bfloat16", **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def without(settings: list[str], *keys: str) -> list[str]:
    return [s for s in settings if not s.startswith(tuple(f"model.{key}=" for key in keys))]


def test_a_horizon_beside_the_weights_is_served(tmp_path: Path) -> None:
    folder = openpi_config(copy_golden("pi05_droid", tmp_path), action_horizon=7)
    settings = without(overrides("pi05_droid", folder), "action_horizon")
    policy = make_policy(*settings)
    assert policy.metadata["action_horizon"] == 7
    policy.load()
    assert policy.infer(cases("pi05_droid")[0].observation)["actions"].shape == (7, 8)


@pytest.mark.parametrize("said", [15, 10])
def test_a_horizon_that_contradicts_the_file_is_refused(tmp_path: Path, said: int) -> None:
    folder = openpi_config(copy_golden("pi05_droid", tmp_path), action_horizon=7)
    settings = without(overrides("pi05_droid", folder), "action_horizon")
    says = rf"model\.action_horizon={said}: .*config\.json says action_horizon=7; leave the setting"
    with pytest.raises(SettingsError, match=says):
        make_policy(*settings, f"model.action_horizon={said}")
    make_policy(*settings, "model.action_horizon=7")


def test_a_dimension_beside_the_weights_is_served(tmp_path: Path) -> None:
    folder = openpi_config(copy_golden("pi0_aloha", tmp_path), action_dim=16)
    with pytest.raises(SettingsError, match=r"model\.action_dim=32: .*says action_dim=16"):
        make_policy(*overrides("pi0_aloha", folder))
    policy = make_policy(*without(overrides("pi0_aloha", folder), "action_dim"))
    assert policy.metadata["model_action_dim"] == 16


@pytest.mark.parametrize(
    ("content", "says"),
    [("{", "cannot be read"), ("[]", "is no JSON object"), ('{"action_dim": "32"}', "is '32'")],
)
def test_a_config_that_is_damaged_is_named(tmp_path: Path, content: str, says: str) -> None:
    folder = copy_golden("pi0_aloha", tmp_path)
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=f"config.json.* {says}"):
        make_policy(*overrides("pi0_aloha", folder))


def test_another_programs_config_changes_nothing(tmp_path: Path) -> None:
    folder = copy_golden("pi0_aloha", tmp_path)
    first = make_policy(*overrides("pi0_aloha", folder)).digest
    (folder / "config.json").write_text('{"model_type": "paligemma"}')
    assert make_policy(*overrides("pi0_aloha", folder)).digest == first
