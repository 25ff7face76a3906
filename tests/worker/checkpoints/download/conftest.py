"""The object store that all tests of downloads share, and a link to it that can be cut."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.checkpoints.download.link import Link
from tests.worker.checkpoints.download.object_store import ObjectStore, object_store
from worker.config import DownloadConfig


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """The server; tests put what they need under keys of their own."""
    with object_store(tmp_path_factory.mktemp("store")) as started:
        yield started


@pytest.fixture
def link(store: ObjectStore) -> Iterator[Link]:
    """A way to the server that a test can cut."""
    with Link(store.port) as made:
        yield made


@pytest.fixture(autouse=True)
def _strangers_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials, settings or caches of whoever runs the tests."""
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENPI_DATA_HOME", str(tmp_path / "other cache"))
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def config(link: Link, tmp_path: Path) -> DownloadConfig:
    """By way of the link, for both schemes, into an empty cache."""
    return DownloadConfig(
        cache_dir=str(tmp_path / "cache"),
        s3_endpoint=link.endpoint,
        gs_endpoint=link.endpoint,
        connections=4,
    )
