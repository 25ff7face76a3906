"""One safetensors file from either form: its values, its dtypes, its memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from tests.golden import CHECKPOINTS, FOLDER, cases, overrides
from tests.worker.checkpoints.orbax_files import noise, write_leaves
from tests.worker.composition import make_policy, model_config
from worker.checkpoint_tools.conversion import convert, converted_dtype, copy_rest
from worker.checkpoints.orbax_names import EMBEDDING
from worker.checkpoints.weights import Weights, open_weights
from worker.errors import CheckpointError
from worker.runtime.loading import load_model

CPU = torch.device("cpu")


def converted(source: Path, target: Path, dtype: str) -> Path:
    with open_weights(source) as weights:
        return convert(weights, target, dtype, lambda count: None)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_float32_keeps_every_value(tmp_path: Path, checkpoint: str) -> None:
    params = FOLDER / checkpoint / "params"
    path = converted(params, tmp_path, "F32")
    with safe_open(path, "np") as file, open_weights(params) as weights:
        assert set(file.keys()) == weights.tensors.keys()
        for name, start, values in weights.pieces():
            stored = file.get_tensor(name)[start : start + len(values)]
            np.testing.assert_array_equal(stored, values)


@pytest.mark.parametrize("checkpoint", ["pi0_aloha", "pi05_droid"])
def test_a_converted_checkpoint_agrees_with_golden(tmp_path: Path, checkpoint: str) -> None:
    converted(FOLDER / checkpoint / "params", tmp_path, "F32")
    assert copy_rest(FOLDER / checkpoint, tmp_path) == ["assets"]
    policy = make_policy(*overrides(checkpoint, tmp_path))
    policy.load()
    for case in cases(checkpoint):
        actions = policy.infer({**case.observation, "noise": case.noise})["actions"]
        np.testing.assert_allclose(actions, case.actions, atol=1e-3, rtol=0)


@pytest.mark.parametrize("form", ["params", "model.safetensors"])
def test_bfloat16_loads_as_if_it_were_rounded_then(tmp_path: Path, form: str) -> None:
    config, source = model_config(*overrides("pi05_droid")), FOLDER / "pi05_droid" / form
    path = converted(source, tmp_path, "BF16")
    assert path.stat().st_size < 0.6 * (FOLDER / "pi05_droid" / "model.safetensors").stat().st_size
    ours, theirs = (load_model(config, p, CPU, torch.bfloat16) for p in (path, source))
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(one, two)


def test_norms_and_small_projections_stay_float32() -> None:
    tower = "paligemma_with_expert.gemma_expert.model"
    assert converted_dtype(f"{tower}.layers.0.mlp.up_proj.weight", "BF16") == "BF16"
    assert converted_dtype(f"{tower}.layers.0.input_layernorm.dense.weight", "BF16") == "F32"
    assert converted_dtype(f"{tower}.norm.weight", "BF16") == "F32"
    assert converted_dtype("action_in_proj.weight", "BF16") == "F32"


def test_too_little_space_is_told_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(CheckpointError, match="GB free, and the weights take"):
        converted(FOLDER / "pi0_aloha" / "params", tmp_path, "F32")


def test_nothing_is_left_of_a_conversion_that_failed(tmp_path: Path) -> None:
    def fail(count: int) -> None:
        raise CheckpointError("damaged")

    with (
        open_weights(FOLDER / "pi0_aloha" / "params") as weights,
        pytest.raises(CheckpointError),
    ):
        convert(weights, tmp_path, "F32", fail)
    assert list(tmp_path.iterdir()) == []


PEAK = r"""
import re, sys
from pathlib import Path
from worker.checkpoint_tools.conversion import convert
from worker.checkpoints.weights import open_weights

def peak():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

small, large, target = map(Path, sys.argv[1:])
for source in (small, large):
    with open_weights(source) as weights:
        before = peak()
        convert(weights, target / source.parent.name, "BF16", lambda count: None)
print(peak() - before)
"""


# Blocks that threads read ahead and the allocator keeps, whatever the tensors' size: from 50 to
# 111 MB were seen where all tensors together take 185.
CONSTANT_BYTES = 64_000_000


def test_memory_stays_below_the_largest_tensor(tmp_path: Path) -> None:
    """A leaf holds all layers, so it is many times as large as what is in memory of it."""
    gates = "PaliGemma/llm/layers/mlp/gating_einsum"
    leaves = {EMBEDDING: noise(50_000, 256), gates: noise(16, 2, 512, 2048)}
    small = write_leaves(tmp_path / "small", {k: v[:2] for k, v in leaves.items()})
    large = write_leaves(tmp_path / "large", leaves)
    command = [sys.executable, "-c", PEAK, str(small), str(large), str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100)
    with open_weights(large) as weights:
        largest = max(tensor.nbytes for tensor in weights.tensors.values())
        assert sum(tensor.nbytes for tensor in weights.tensors.values()) > 3 * largest
    assert largest == leaves[EMBEDDING].nbytes
    assert int(done.stdout) < 1.3 * largest + CONSTANT_BYTES


def test_either_form_is_described_alike(tmp_path: Path) -> None:
    def described(weights: Weights) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in weights.tensors.items()}

    folder = FOLDER / "pi0_aloha"
    with (
        open_weights(folder / "params") as jax,
        open_weights(folder / "model.safetensors") as torch_form,
    ):
        unused = described(torch_form).keys() - described(jax).keys()
        assert unused == {"paligemma_with_expert.gemma_expert.lm_head.weight"}
        assert described(jax).items() <= described(torch_form).items()
