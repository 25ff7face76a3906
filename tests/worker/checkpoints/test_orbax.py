"""JAX's leaves as the tensors of the PyTorch form."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.golden import CHECKPOINTS, FLOW_CHECKPOINTS, FOLDER
from tests.worker.checkpoints.checkpoint_files import read_weights, whole_tensors
from tests.worker.checkpoints.orbax_files import noise, read_leaves, write_leaves
from worker.checkpoints.orbax import OrbaxWeights
from worker.checkpoints.orbax_names import EMBEDDING
from worker.checkpoints.public_names import EMBEDDING_NAME
from worker.errors import CheckpointError

UNUSED = {"paligemma_with_expert.gemma_expert.lm_head.weight"}


@pytest.mark.parametrize("checkpoint", FLOW_CHECKPOINTS)
def test_both_forms_hold_the_same(checkpoint: str) -> None:
    ours = whole_tensors(OrbaxWeights(FOLDER / checkpoint / "params"))
    theirs = read_weights(FOLDER / checkpoint / "model.safetensors")
    assert ours.keys() == theirs.keys() - UNUSED
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_tensors_are_described_before_they_are_read(checkpoint: str) -> None:
    weights = OrbaxWeights(FOLDER / checkpoint / "params")
    shapes = {name: array.shape for name, array in whole_tensors(weights).items()}
    assert shapes == {name: tensor.shape for name, tensor in weights.tensors.items()}
    assert {tensor.dtype for tensor in weights.tensors.values()} == {"F32"}


def test_the_embedding_comes_some_rows_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.checkpoints.orbax.BLOCK_BYTES", 1000)
    array = noise(100, 8).astype(ml_dtypes.bfloat16)
    weights = OrbaxWeights(write_leaves(tmp_path, {EMBEDDING: array}))
    pieces = list(weights.pieces())
    assert [piece.start for piece in pieces] == [0, 62]
    assert weights.tensors[EMBEDDING_NAME].dtype == "BF16"
    ((name, whole),) = whole_tensors(weights).items()
    assert name == EMBEDDING_NAME
    np.testing.assert_array_equal(whole, array)


def test_a_rewritten_checkpoint_is_the_same_whatever_its_chunks(tmp_path: Path) -> None:
    written = OrbaxWeights(write_leaves(tmp_path, read_leaves("pi05_libero"), chunks=2))
    original = whole_tensors(OrbaxWeights(FOLDER / "pi05_libero" / "params"))
    for name, array in whole_tensors(written).items():
        np.testing.assert_array_equal(array, original.pop(name))
    assert original == {}


def test_a_leaf_of_another_model_is_named(tmp_path: Path) -> None:
    params = write_leaves(tmp_path, {EMBEDDING: noise(4, 4), "decoder/kernel": noise(4)})
    with pytest.raises(CheckpointError, match=r"has 1 leaves .* the first decoder/kernel"):
        OrbaxWeights(params)


def test_a_leaf_of_impossible_shape_is_named(tmp_path: Path) -> None:
    params = write_leaves(tmp_path, {"PaliGemma/llm/layers/attn/q_einsum/w": noise(3, 4)})
    with pytest.raises(CheckpointError, match=r"q_einsum/w has shape \[3, 4\], which cannot be"):
        OrbaxWeights(params)
