"""The trained weights that ship are found where they fit, and never served when damaged."""

import shutil
from pathlib import Path

import pytest

from tests.worker.composition import model_config
from worker.checkpoints import shipped
from worker.checkpoints.download import Cache
from worker.checkpoints.files import Sources
from worker.config import DownloadConfig
from worker.errors import CheckpointError

CUBE = "lerobot/aloha_sim_transfer_cube_human"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shipped.FOLDER, tmp_path / "copy"))


def test_they_fit_the_tiny_model_on_the_simulator_alone() -> None:
    tiny = model_config("model=tiny")
    assert shipped.mismatch(tiny, CUBE) is None
    assert CUBE in str(shipped.mismatch(tiny, "trossen"))
    other = model_config("model=tiny", "model.expert.width=64")
    assert "model.expert.width=128, not 64" in str(shipped.mismatch(other, CUBE))


def test_they_and_their_statistics_are_found(copy: Path) -> None:
    cache = Cache(DownloadConfig(cache_dir="nowhere"))
    sources = Sources(None, None, embedded=True, trained=copy)
    found = sources.find(CUBE, cache)
    assert found.weights == copy / "model.safetensors"
    assert found.norm_stats == copy / "assets" / CUBE / "norm_stats.json"
    assert not sources.untrained
    assert Sources(None, None, embedded=True).untrained
    assert not Sources("folder", None, embedded=True).untrained


@pytest.mark.parametrize("name", ["model.safetensors", f"assets/{CUBE}/norm_stats.json"])
def test_a_damaged_file_is_refused(copy: Path, name: str) -> None:
    shipped.check(copy)
    damaged = bytearray((copy / name).read_bytes())
    damaged[-5] ^= 1
    (copy / name).write_bytes(damaged)
    cache = Cache(DownloadConfig(cache_dir="nowhere"))
    with pytest.raises(CheckpointError, match=r"is damaged: .*install the package again"):
        Sources(None, None, embedded=True, trained=copy).find(CUBE, cache)
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        shipped.check(copy)


def test_a_damaged_description_is_refused(copy: Path) -> None:
    (copy / shipped.DESCRIPTION).write_text("{")
    with pytest.raises(CheckpointError, match=r"trained\.json cannot be read"):
        shipped.mismatch(model_config("model=tiny"), CUBE, copy)
