"""Finding a checkpoint's files, saying what is missing, and fingerprints."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.golden import FOLDER, TOKENIZER
from tests.worker.checkpoints.checkpoint_files import copy_golden, read_weights, write_weights
from worker.checkpoints.download import Cache
from worker.checkpoints.download.addresses import parse
from worker.checkpoints.files import PUBLIC_TOKENIZER, Checkpoint, Sources, digest
from worker.config import DownloadConfig
from worker.errors import CheckpointError

WAYS_ON = r"checkpoint=DIR .*model=tiny"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return copy_golden("pi0_aloha", tmp_path)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(DownloadConfig(cache_dir=str(tmp_path / "cache")))


def find(
    checkpoint: str | None, tokenizer: str | None, asset_id: str, embedded: bool
) -> Checkpoint:
    cache = Cache(DownloadConfig(cache_dir="nowhere"))
    return Sources(checkpoint, tokenizer, embedded).find(asset_id, cache)


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
        ("gs://openpi-assets/checkpoints/pi0_base", "checkpoint=gs://.* does not exist"),
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
    says = rf"neither model\.safetensors nor params/: it holds assets, .*{WAYS_ON}"
    with pytest.raises(CheckpointError, match=says):
        found(folder)


@pytest.mark.parametrize("tokenizer", [None, "gs://bucket/words.model"])
def test_no_tokenizer_is_fetched_for_a_folder_without_weights(
    tmp_path: Path, cache: Cache, tokenizer: str | None
) -> None:
    with pytest.raises(CheckpointError, match=rf"neither .*it holds nothing; {WAYS_ON}"):
        Sources(str(tmp_path), tokenizer, embedded=False).missing(cache)


def test_a_folder_of_weights_alone_is_recognised() -> None:
    with pytest.raises(CheckpointError, match=r"is a checkpoint's params/: name the folder above"):
        found(FOLDER / "pi0_aloha" / "params")


@pytest.mark.parametrize("address", ["ftp://host/folder", "http://host/folder"])
def test_other_schemes_are_refused(address: str) -> None:
    with pytest.raises(CheckpointError, match=r"is none of s3://, gs:// and file://"):
        find(address, None, "trossen", embedded=False)


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
    assert find(str(folder), None, "trossen", embedded=True).tokenizer.name == "tokenizer.model"


def test_the_public_tokenizer_stands_in_for_a_missing_one(folder: Path, cache: Cache) -> None:
    sources = Sources(str(folder), None, embedded=False)
    assert sources.missing(cache) is None
    (folder / TOKENIZER.name).unlink()
    assert sources.missing(cache) == PUBLIC_TOKENIZER
    kept = cache.folder / "big_vision" / "paligemma_tokenizer.model"
    kept.parent.mkdir(parents=True)
    shutil.copy(TOKENIZER, kept)
    assert sources.missing(cache) is None
    assert sources.find("trossen", cache).tokenizer == kept


def test_addresses_are_missing_until_they_are_in_the_cache(folder: Path, cache: Cache) -> None:
    sources = Sources("gs://bucket/models/one", "s3://bucket/words.model", embedded=False)
    assert sources.missing(cache) == "gs://bucket/models/one"
    shutil.copytree(folder, cache.folder / "bucket" / "models" / "one")
    assert sources.missing(cache) == "s3://bucket/words.model"
    shutil.copy(TOKENIZER, cache.folder / "bucket" / "words.model")
    assert sources.missing(cache) is None
    files = sources.find("trossen", cache)
    assert files.tokenizer == cache.folder / "bucket" / "words.model"
    assert files.weights == cache.folder / "bucket" / "models" / "one" / "model.safetensors"


def test_params_are_the_weights_where_there_is_no_file(folder: Path) -> None:
    shutil.copytree(FOLDER / "pi0_aloha" / "params", folder / "params")
    assert found(folder).weights == folder / "model.safetensors"
    (folder / "model.safetensors").unlink()
    files = found(folder)
    assert files.weights == folder / "params"
    first = digest(files, {})
    largest = max((folder / "params").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    assert digest(files, {}) != first


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
    assert files.norm_stats is not None
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


def test_the_cache_is_the_public_systems_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("OPENPI_DATA_HOME", raising=False)
    assert Cache(DownloadConfig()).folder == Path.home() / ".cache" / "openpi"
    monkeypatch.setenv("OPENPI_DATA_HOME", str(tmp_path / "theirs"))
    assert Cache(DownloadConfig()).folder == tmp_path / "theirs"
    assert Cache(DownloadConfig(cache_dir=str(tmp_path))).folder == tmp_path


def test_a_folder_above_another_download_is_not_complete(cache: Cache, folder: Path) -> None:
    below = "gs://bucket/models/one"
    shutil.copytree(folder, cache.folder / "bucket" / "models" / "one")
    (cache.folder / "bucket" / "models" / ".one.lock").touch()
    (cache.folder / "bucket" / "models" / "words.model").touch()
    assert cache.has(below)
    assert not cache.has("gs://bucket/models")
    sources = Sources("gs://bucket/models", None, embedded=False)
    assert sources.missing(cache) == "gs://bucket/models"
    cache.mark_complete(parse("gs://bucket/models"))
    assert cache.has("gs://bucket/models")
