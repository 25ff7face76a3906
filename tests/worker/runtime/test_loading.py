"""Filling models with weights: names, shapes, dtypes, memory, and checkpoints that don't fit."""

import json
import re
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tests.golden import FOLDER, overrides
from tests.worker.checkpoints.checkpoint_files import (
    Weights,
    read_weights,
    write_shards,
    write_weights,
)
from tests.worker.checkpoints.lerobot_folders import older_name
from tests.worker.composition import model_config
from worker.checkpoints.names import checkpoint_name
from worker.config import ModelConfig
from worker.errors import CheckpointError
from worker.models.pi0 import Pi0
from worker.runtime.loading import load_model

CPU = torch.device("cpu")
VLM = "paligemma_with_expert.paligemma.model.language_model."
HEAD = "paligemma_with_expert.paligemma.lm_head.weight"
WIDE = ["model=tiny", "model.vlm.mlp_dim=9000", "model.vlm.width=1024"]
DEEP = [
    *("model=tiny", "model.vlm.width=1024", "model.vlm.mlp_dim=2000"),
    *("model.vlm.depth=10", "model.expert.depth=10"),
]
WAIT_S = 300.0


def golden_weights(checkpoint: str = "pi0_aloha") -> Weights:
    return read_weights(FOLDER / checkpoint / "model.safetensors")


def load(weights: Weights, folder: Path, *settings: str) -> Pi0:
    path = folder / "model.safetensors"
    write_weights(path, weights)
    return load_model(model_config(*overrides("pi0_aloha"), *settings), path, CPU, torch.float32)


def same(one: Pi0, two: Pi0) -> bool:
    pairs = zip(one.state_dict().items(), two.state_dict().items(), strict=True)
    return all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


def test_other_names_of_the_same_tensors_load_alike(tmp_path: Path) -> None:
    weights = golden_weights()
    plain = load(weights, tmp_path)
    lerobot = {f"model.{name}": array for name, array in weights.items()}
    embed = {(f"{VLM}embed_tokens.weight" if n == HEAD else n): a for n, a in weights.items()}
    both = {**weights, f"{VLM}embed_tokens.weight": weights[HEAD]}
    assert all(same(plain, load(w, tmp_path)) for w in (lerobot, embed, both))


def test_modules_named_as_in_older_transformers_load_alike(tmp_path: Path) -> None:
    weights = golden_weights()
    older = {f"model.{older_name(name)}": array for name, array in weights.items()}
    assert older.keys() != {f"model.{name}" for name in weights}
    assert same(load(weights, tmp_path), load(older, tmp_path))


def test_a_tensor_under_both_names_is_refused(tmp_path: Path) -> None:
    weights = golden_weights()
    doubled = {**weights, "model.state_proj.bias": weights["state_proj.bias"]}
    with pytest.raises(CheckpointError, match=r"two tensors that are both state_proj\.bias"):
        load(doubled, tmp_path)


def test_integers_among_the_weights_are_passed_over_unless_they_are_needed(tmp_path: Path) -> None:
    config = model_config(*overrides("pi0_aloha"))
    weights: dict[str, np.ndarray[Any, Any]] = dict(golden_weights())
    path = tmp_path / "model.safetensors"
    save_file({**weights, "vision.position_ids": np.arange(4)}, path)
    assert same(load_model(config, path, CPU, torch.float32), load(golden_weights(), tmp_path))
    weights["state_proj.bias"] = weights["state_proj.bias"].astype(np.int8)
    save_file(weights, path)
    with pytest.raises(
        CheckpointError, match=r"state_proj\.bias has dtype I8: a weight is a float"
    ):
        load_model(config, path, CPU, torch.float32)


def test_weights_in_several_files_load_alike(tmp_path: Path) -> None:
    config, weights = model_config(*overrides("pi0_aloha")), golden_weights()
    index = write_shards(tmp_path, weights, 3)
    loaded = load_model(config, index, CPU, torch.float32)
    assert same(loaded, load(weights, tmp_path))
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="model-00002-of-00003.safetensors is not there"):
        load_model(config, index, CPU, torch.float32)


@pytest.mark.parametrize(
    "index", ["{}", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "{"]
)
def test_a_damaged_index_is_named(tmp_path: Path, index: str) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(index)
    with pytest.raises(CheckpointError, match=r"index\.json names"):
        load_model(model_config(*overrides("pi0_aloha")), path, CPU, torch.float32)


def test_bfloat16_keeps_norms_and_small_projections_in_float32() -> None:
    config = model_config(*overrides("pi05_droid"))
    path = FOLDER / "pi05_droid" / "model.safetensors"
    model = load_model(config, path, CPU, torch.bfloat16)
    wide = {n for n, p in model.named_parameters() if p.dtype == torch.float32}
    assert "expert.layers.0.input_layernorm.dense.weight" in wide
    assert "vlm.norm.weight" in wide
    assert "action_out_proj.weight" in wide
    narrow = {n for n, p in model.named_parameters() if p.dtype == torch.bfloat16}
    assert "vlm.layers.2.mlp.up_proj.weight" in narrow
    assert "embedding" in narrow
    exact = load_model(config, path, CPU, torch.float32).embedding
    assert torch.equal(model.embedding, exact.bfloat16())


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("model.vlm.mlp_dim=95", r"shape \[96, 64\], expected \[95, 64\]; model.vlm.mlp_dim="),
        ("model.expert.mlp_dim=65", "model.expert.mlp_dim="),
        ("model.expert.width=34", r"model\.expert\.width="),
        ("model.vlm.width=66", r"expected .* model\.vlm\.width="),
        ("model.vision.width=34", "model.vision.*width="),
        ("model.vision.mlp_dim=49", "model.vision.mlp_dim="),
        ("model.vision.patch_size=28", "model.vision.patch_size="),
        ("model.vocab_size=1241", "lm_head.weight has shape .* model.vocab_size="),
        ("model.action_dim=31", "model.action_dim="),
        ("model.vision.depth=1", "model.vision.depth="),
        ("model.vision.depth=3", "model.vision.depth="),
        ("model.architecture=pi05", "is it a pi0 or a pi05"),
    ],
)
def test_other_dimensions_name_tensor_shapes_and_key(
    tmp_path: Path, setting: str, says: str
) -> None:
    with pytest.raises(CheckpointError, match=says):
        load(golden_weights(), tmp_path, setting)


@pytest.mark.parametrize(("depth", "part"), [(2, "expert"), (4, "vlm")])
def test_another_depth_is_named(tmp_path: Path, depth: int, part: str) -> None:
    both = [f"model.vlm.depth={depth}", f"model.expert.depth={depth}"]
    with pytest.raises(CheckpointError, match=rf"model\.{part}\.depth="):
        load(golden_weights(), tmp_path, *both)


def test_a_pi05_checkpoint_is_no_pi0(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is it a pi0 or a pi05"):
        load(golden_weights("pi05_libero"), tmp_path)


def test_missing_and_unexpected_tensors_are_named(tmp_path: Path) -> None:
    weights = golden_weights()
    with pytest.raises(CheckpointError, match=r"has 1 tensors .* the first surprise"):
        load({**weights, "surprise": np.zeros(1, np.float32)}, tmp_path)
    del weights["state_proj.bias"]
    with pytest.raises(CheckpointError, match=re.escape("has no tensor state_proj.bias")):
        load(weights, tmp_path)


def test_a_file_without_tensors_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no tensor"):
        load({}, tmp_path)


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `ELSEWHERE` tells in a process of its own; torch is imported once for all of it."""
    path = tmp_path_factory.mktemp("made_up") / "model.safetensors"
    write_weights(path, made_up(model_config(*WIDE)))
    command = [sys.executable, "-c", ELSEWHERE, json.dumps([WIDE, str(path), DEEP])]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=WAIT_S)
    told: dict[str, Any] = dict(json.loads(line) for line in done.stdout.splitlines())
    return told


@pytest.mark.timeout(2 * WAIT_S)
def test_seeded_weights_are_the_same_in_every_process(elsewhere: dict[str, Any]) -> None:
    model = load_model(model_config("model=tiny"), None, CPU, torch.float32)
    checksum = 0
    for parameter in model.parameters():
        checksum = zlib.crc32(parameter.numpy().tobytes(), checksum)
    assert elsewhere["checksum"] == checksum


@pytest.mark.timeout(2 * WAIT_S)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_needs_hardly_more_memory_than_the_weights(
    elsewhere: dict[str, Any], dtype: str
) -> None:
    weights, peak = elsewhere[dtype]
    assert weights > 150e6
    assert peak < 1.2 * weights


@pytest.mark.timeout(2 * WAIT_S)
def test_arranging_needs_hardly_more_memory_than_the_weights(elsewhere: dict[str, Any]) -> None:
    weights, peak = elsewhere["arranged"]
    assert weights > 200e6
    assert peak < 1.3 * weights


def made_up(config: ModelConfig) -> Weights:
    """A checkpoint of zeros for `config`, under the public names."""
    with torch.device("meta"):
        shapes = {n: tuple(p.shape) for n, p in Pi0(config).named_parameters()}
    return {checkpoint_name(n): np.zeros(shape, np.float32) for n, shape in shapes.items()}


# A line of JSON for each function: what it returned. Those of memory are the bytes of the weights,
# and the most that loading them, or making them up, fusing and packing them, added to the resident
# memory of a process that was forked for it.
ELSEWHERE = """
import json, os, sys, torch, zlib
from pathlib import Path
from tests.worker.composition import model_config
from worker.runtime.layout import arrange
from worker.runtime.loading import load_model

cpu = torch.device("cpu")
wide, path, deep = json.loads(sys.argv[1])
configs = {"tiny": model_config("model=tiny"), "wide": model_config(*wide)}
configs["deep"] = model_config(*deep)

def checksum():
    found = 0
    for parameter in load_model(configs["tiny"], None, cpu, torch.float32).parameters():
        found = zlib.crc32(parameter.numpy().tobytes(), found)
    return found

def memory(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

def loaded(dtype):
    torch.zeros(1) + torch.zeros(1)
    before = memory("VmRSS")
    model = load_model(configs["wide"], Path(path), cpu, dtype)
    return sum(p.nbytes for p in model.parameters()), memory("VmHWM") - before

@torch.no_grad()
def arranged():
    arrange(load_model(configs["tiny"], None, cpu, torch.float32), cpu, False)
    before = memory("VmRSS")
    model = load_model(configs["deep"], None, cpu, torch.float32)
    weights = sum(p.nbytes for p in model.parameters())
    arrange(model, cpu, False)
    return weights, memory("VmHWM") - before

for name, run in (
    ("checksum", checksum),
    ("float32", lambda: loaded(torch.float32)),
    ("bfloat16", lambda: loaded(torch.bfloat16)),
    ("arranged", arranged),
):
    if os.fork() == 0:
        print(json.dumps([name, run()]), flush=True)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(f"{name} failed")
"""
