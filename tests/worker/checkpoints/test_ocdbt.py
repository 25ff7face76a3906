"""Reading zarr arrays out of OCDBT: any chunks, piece by piece, and naming what is not read."""

import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.golden import FOLDER
from tests.worker.checkpoints.orbax_files import noise, write_leaves
from worker.checkpoints.ocdbt import OrbaxFolder
from worker.errors import CheckpointError


@pytest.mark.parametrize("shape", [(7,), (1, 5), (5, 4, 3), (3, 2, 3, 5)])
@pytest.mark.parametrize("chunks", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 100])
def test_blocks_together_are_the_array(
    tmp_path: Path, shape: tuple[int, ...], chunks: int, rows: int
) -> None:
    array = noise(*shape)
    leaf = OrbaxFolder(write_leaves(tmp_path, {"a/b": array}, chunks)).leaves["a/b"]
    assert (leaf.shape, leaf.nbytes) == (shape, array.nbytes)
    blocks = list(leaf.blocks(rows))
    assert all(len(block) <= rows for block in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), array)


def test_values_longer_than_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.checkpoints.ocdbt.READ_BYTES", 1000)
    array = noise(64, 333)
    leaf = OrbaxFolder(write_leaves(tmp_path, {"a": array})).leaves["a"]
    np.testing.assert_array_equal(np.concatenate(list(leaf.blocks(5))), array)


@pytest.mark.parametrize("compressor", [None, {"id": "zstd", "level": 3}])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_floats_of_every_width(tmp_path: Path, dtype: Any, compressor: Any) -> None:
    array = noise(4, 5).astype(dtype)
    params = write_leaves(tmp_path, {"a": array}, compressor=compressor)
    (block,) = OrbaxFolder(params).leaves["a"].blocks(4)
    assert block.dtype == dtype
    np.testing.assert_array_equal(block, array)


def test_chunks_of_zeros_may_be_left_out(tmp_path: Path) -> None:
    array = noise(4, 4)
    array[:2, :2] = 0
    leaf = OrbaxFolder(write_leaves(tmp_path, {"a": array}, 2)).leaves["a"]
    np.testing.assert_array_equal(np.concatenate(list(leaf.blocks(1))), array)


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"compressor": {"id": "gzip", "level": 1}}, "compressor gzip"),
        ({"order": "F"}, "order F"),
    ],
)
def test_what_orbax_does_not_write_is_refused(
    tmp_path: Path, metadata: dict[str, Any], says: str
) -> None:
    params = write_leaves(tmp_path, {"a": noise(4, 4)}, **metadata)
    with pytest.raises(CheckpointError, match=rf"{says}.*read are model\.safetensors and params/"):
        OrbaxFolder(params)


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    params = write_leaves(tmp_path, {"a": np.ones(4, np.int8)})
    with pytest.raises(CheckpointError, match=r"\|i1; quantised weights are not read"):
        OrbaxFolder(params)


def test_adapters_are_refused(tmp_path: Path) -> None:
    params = write_leaves(tmp_path, {"llm/attn/q_einsum/lora_a": noise(4)})
    with pytest.raises(CheckpointError, match=r"LoRA adapters \(.*lora_a\): merge them"):
        OrbaxFolder(params)


def test_another_form_is_named(tmp_path: Path) -> None:
    (tmp_path / "params").mkdir()
    with pytest.raises(CheckpointError, match=r"has no manifest\.ocdbt"):
        OrbaxFolder(tmp_path / "params")


def test_zarr_3_is_refused(tmp_path: Path) -> None:
    import tensorstore

    base = f"file://{tmp_path}/params/"
    kvstore = {"driver": "ocdbt", "base": base, "path": "params.a/"}
    spec = {"driver": "zarr3", "kvstore": kvstore}
    tensorstore.open(spec, create=True, dtype=tensorstore.float32, shape=[4]).result()
    with pytest.raises(CheckpointError, match="holds zarr 3 arrays"):
        OrbaxFolder(tmp_path / "params")


def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FOLDER / "pi0_aloha" / "params", tmp_path / "params"))


def largest(params: Path) -> Path:
    """The file with most of the arrays."""
    return max(params.glob("**/d/*"), key=lambda path: path.stat().st_size)


def read_all(params: Path) -> None:
    for leaf in OrbaxFolder(params).leaves.values():
        for _ in leaf.blocks(1):
            pass


@pytest.mark.parametrize(("folder", "kept"), [("d", 0), ("d", -1), ("**/d", 0), ("**/d", 1000)])
def test_a_truncated_file_is_noticed(tmp_path: Path, folder: str, kept: int) -> None:
    params = copied(tmp_path)
    path = max(params.glob(f"{folder}/*"), key=lambda path: path.stat().st_size)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="damaged or was not copied completely"):
        read_all(params)


def test_a_missing_file_is_noticed(tmp_path: Path) -> None:
    params = copied(tmp_path)
    largest(params).unlink()
    with pytest.raises(CheckpointError, match="damaged or was not copied completely"):
        read_all(params)


def test_a_damaged_manifest_is_noticed(tmp_path: Path) -> None:
    params = copied(tmp_path)
    (params / "manifest.ocdbt").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="damaged or was not copied completely"):
        OrbaxFolder(params)


def test_damaged_data_is_noticed(tmp_path: Path) -> None:
    params = copied(tmp_path)
    path = largest(params)
    content = bytearray(path.read_bytes())
    for start in range(len(content) // 4, len(content), len(content) // 4):
        content[start : start + 100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot be decompressed|ends .* early"):
        read_all(params)
