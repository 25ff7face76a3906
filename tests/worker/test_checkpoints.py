"""Finding a checkpoint's files, saying what is missing, and fingerprints."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.golden import TOKENIZER
from tests.worker.checkpoint_files import copy_golden, read_weights, write_weights
from worker.checkpoints import Checkpoint, digest, find
from worker.errors import CheckpointError

WAYS_ON = r"checkpoint=DIR .*model=tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_golden("pi0_aloha", tmp_path)


def found(folder: Path) -> Checkpoint:
    return find(str(folder), None, "trossen", embedded=False)


def test_all_files_are_found(folder: Path) -> None:
    assert found(folder) == Checkpoint(
        weights=folder / "model.safetensors",
        norm_stats=folder / "assets" / "trossen" / "norm_stats.json",
        tokenizer=folder / TOKENIZER.name,
    )


@pytest.mark.parametrize(
    ("checkpoint", "says"),
    [
        (None, "no public checkpoint"),
        ("gone", "checkpoint=gone does not exist"),
        ("file:///gone", "does not exist"),
        ("gs://openpi-assets/checkpoints/pi0_base", "checkpoint=gs://.* cannot be reached"),
        ("s3://bucket/key", "checkpoint=s3://bucket/key cannot be reached"),
        (str(TOKENIZER), "is a file"),
    ],
)
def test_a_checkpoint_that_is_not_there_names_the_ways_on(
    checkpoint: str | None, says: str
) -> None:
    with pytest.raises(CheckpointError, match=f"{says}.*{WAYS_ON}"):
        find(checkpoint, None, "trossen", embedded=False)


def test_a_folder_without_weights_names_the_ways_on(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=rf"has no model\.safetensors; {WAYS_ON}"):
        found(folder)
    (folder / "params").mkdir()
    with pytest.raises(CheckpointError, match=rf"convert it first; {WAYS_ON}"):
        found(folder)


def test_missing_statistics_name_those_that_are_there(folder: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"droid/norm_stats\.json .*for trossen; env.asset_id"
    ):
        find(str(folder), None, "droid", embedded=False)
    shutil.rmtree(folder / "assets")
    with pytest.raises(CheckpointError, match="statistics for nothing"):
        found(folder)


def test_a_missing_tokenizer_is_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="tokenizer=gone is no file"):
        find(str(folder), "gone", "trossen", embedded=False)
    (folder / TOKENIZER.name).unlink()
    with pytest.raises(CheckpointError, match="tokenizer=FILE names PaliGemma's"):
        found(folder)
    assert find(str(folder), None, "trossen", embedded=True).tokenizer.name == "tokenizer.model"


@pytest.mark.parametrize("asset", ["trossen", "droid", "physical-intelligence/libero"])
def test_the_embedded_model_needs_no_checkpoint(asset: str) -> None:
    files = find(None, None, asset, embedded=True)
    assert files.weights is None
    assert files.tokenizer.read_bytes() == TOKENIZER.read_bytes()


def test_a_digest_follows_every_file_and_setting(folder: Path) -> None:
    files = found(folder)
    first = digest(files, {"seed": 0})
    assert digest(files, {"seed": 0}) == first
    seen = {first, digest(files, {"seed": 1})}
    for path in (files.norm_stats, files.tokenizer):
        path.write_bytes(path.read_bytes() + b"\n")
        seen.add(digest(files, {"seed": 0}))
    assert files.weights is not None
    weights = read_weights(files.weights)
    changed = {**weights, "state_proj.bias": weights["state_proj.bias"] + np.float32(1)}
    write_weights(files.weights, changed)
    seen.add(digest(files, {"seed": 0}))
    assert len(seen) == 5


def test_a_digest_does_not_depend_on_where_the_files_lie(tmp_path: Path) -> None:
    copies = [copy_golden("pi05_droid", tmp_path / name) for name in ("one", "two")]
    one, two = (digest(find(str(c), None, "droid", embedded=False), {}) for c in copies)
    assert one == two
