"""Reading safetensors files, and naming what is wrong with damaged ones."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.golden import FOLDER
from tests.worker.checkpoints.checkpoint_files import read_weights, write_raw, write_weights
from worker.checkpoints.safetensors_file import WeightsFile
from worker.errors import CheckpointError

GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def test_reads_what_the_reference_implementation_wrote(tmp_path: Path) -> None:
    weights = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(0, np.float32)}
    save_file(weights, tmp_path / "weights", metadata={"format": "pt"})
    found = read_weights(tmp_path / "weights")
    assert found.keys() == weights.keys()
    np.testing.assert_array_equal(found["a"], weights["a"])
    assert found["b"].shape == (0,)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone cannot be read"):
        WeightsFile(tmp_path / "gone")


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    whole = (FOLDER / "pi0_aloha" / "model.safetensors").read_bytes()
    (tmp_path / "cut").write_bytes(whole[:kept])
    with pytest.raises(CheckpointError, match="damaged or was not copied completely"):
        WeightsFile(tmp_path / "cut")


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"{broken",
        b"\xff\xff",
        b"[" * 100_000,
        json.dumps({"a": 1}).encode(),
        json.dumps({"a": {}}).encode(),
        json.dumps({"a": {**GOOD, "data_offsets": [0]}}).encode(),
        json.dumps({"a": {**GOOD, "data_offsets": [0, 4]}}).encode(),
        json.dumps({"a": {**GOOD, "data_offsets": [8, 0]}}).encode(),
        json.dumps({"a": {**GOOD, "data_offsets": [-8, 0]}}).encode(),
        json.dumps({"a": {**GOOD, "data_offsets": [8, 16]}}).encode(),
        json.dumps({"a": {**GOOD, "shape": [-1, -2]}}).encode(),
        json.dumps({"a": {**GOOD, "shape": "wide"}}).encode(),
        json.dumps({"a": {**GOOD, "shape": [2.0]}}).encode(),
    ],
)
def test_a_senseless_header_is_refused(tmp_path: Path, header: bytes) -> None:
    write_raw(tmp_path / "odd", header, bytes(8))
    with pytest.raises(CheckpointError, match="damaged"):
        WeightsFile(tmp_path / "odd")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "nonsense", 7, []])
def test_a_quantised_weight_is_refused(tmp_path: Path, dtype: object) -> None:
    write_raw(tmp_path / "odd", json.dumps({"a": {**GOOD, "dtype": dtype}}).encode(), bytes(8))
    with pytest.raises(CheckpointError, match="not quantised"):
        WeightsFile(tmp_path / "odd")


def test_integers_are_told_apart_from_weights(tmp_path: Path) -> None:
    save_file({"a": np.ones(2, np.float32), "count": np.ones(3, np.int64)}, tmp_path / "two")
    with WeightsFile(tmp_path / "two") as file:
        assert (set(file.tensors), file.not_floats) == ({"a"}, {"count": "I64"})
    whole = (tmp_path / "two").read_bytes()
    (tmp_path / "two").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match="lies beyond its end"):
        WeightsFile(tmp_path / "two")


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "shrinking"
    write_weights(path, {"a": np.zeros(1000, np.float32)})
    with WeightsFile(path) as file:
        with path.open("rb+") as other:
            other.truncate(file.tensors["a"].start + 10)
        with pytest.raises(CheckpointError, match="ends 3990 bytes early"):
            file.read_into(file.tensors["a"].start, memoryview(bytearray(4000)))
