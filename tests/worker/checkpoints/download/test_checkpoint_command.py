"""`python -m scripts.checkpoint` on object storage."""

from pathlib import Path

import pytest

from scripts.checkpoint import main
from tests.golden import FOLDER
from tests.worker.checkpoints.download.object_store import OPEN, ObjectStore
from worker.config import DownloadConfig

LOCATION = f"gs://{OPEN}/commands/pi0_aloha"


@pytest.fixture
def endpoint(store: ObjectStore, config: DownloadConfig) -> list[str]:
    """A checkpoint in the store, and how to reach it."""
    store.put_folder("commands/pi0_aloha", FOLDER / "pi0_aloha")
    return [f"--gs-endpoint={config.gs_endpoint}", f"--cache-dir={config.cache_dir}"]


def kept(config: DownloadConfig) -> Path:
    return Path(str(config.cache_dir)) / LOCATION.removeprefix("gs://")


def test_inspect(endpoint: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", LOCATION, *endpoint]) == 0
    assert "python -m worker env=aloha model=pi0 " in capsys.readouterr().out


def test_verify_compares_with_the_store(
    endpoint: list[str], config: DownloadConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", LOCATION, *endpoint]) == 0
    assert "the same md5 that the store tells" in capsys.readouterr().out
    stats = kept(config) / "assets" / "trossen" / "norm_stats.json"
    stats.write_text(stats.read_text() + " ")
    assert main(["verify", LOCATION, *endpoint]) == 1
    printed = capsys.readouterr().out
    assert f"the store has {stats.stat().st_size - 1} bytes of it" in printed
    assert f"remove {kept(config)} to have it downloaded again" in printed


def test_verify_notices_another_content_of_the_same_size(
    endpoint: list[str], config: DownloadConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", LOCATION, *endpoint]) == 0
    shapes = kept(config) / "shapes.json"
    shapes.write_text(shapes.read_text().swapcase())
    assert main(["verify", LOCATION, *endpoint]) == 1
    assert "not the md5 that the store tells" in capsys.readouterr().out


def test_nothing_there(endpoint: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", f"gs://{OPEN}/commands/gone", *endpoint]) == 1
    assert "there is nothing at that address" in capsys.readouterr().err
