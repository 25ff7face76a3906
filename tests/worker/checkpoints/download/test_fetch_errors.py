"""What can go wrong on the way, each with one error that says what to do."""

import errno
import shutil
import socket
from pathlib import Path

import pytest

from tests.worker.checkpoints.download.object_store import CLOSED, KEY, OPEN, SECRET, ObjectStore
from worker.checkpoints.download import Cache, fetch
from worker.checkpoints.download.addresses import Address
from worker.checkpoints.download.store import RemoteFile
from worker.checkpoints.download.transfer import check_paths
from worker.checkpoints.files import PUBLIC_TOKENIZER
from worker.config import DownloadConfig
from worker.errors import CheckpointError

WAYS_ON = r".*checkpoint=DIR.*model=tiny"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.checkpoints.download.transfer.FIRST_PAUSE_S", 0.001)


@pytest.fixture
def model(store: ObjectStore) -> str:
    """The address of an object that anybody may read."""
    store.put("errors/model", b"model")
    return f"s3://{OPEN}/errors/model"


def owner(monkeypatch: pytest.MonkeyPatch, key: str = KEY, secret: str = SECRET) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)


def test_nothing_at_that_prefix(store: ObjectStore, config: DownloadConfig) -> None:
    with pytest.raises(CheckpointError, match=f"there is nothing at that address in open{WAYS_ON}"):
        fetch(f"gs://{OPEN}/checkpoints/pi9", config)


def test_a_bucket_that_is_gone(config: DownloadConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    owner(monkeypatch)
    with pytest.raises(CheckpointError, match=f"there is no bucket vanished{WAYS_ON}"):
        fetch("s3://vanished/model", config)


def test_no_permission_without_credentials(store: ObjectStore, config: DownloadConfig) -> None:
    store.put("model/a", b"a", CLOSED)
    with pytest.raises(
        CheckpointError, match=f"no permission without credentials .*AWS_PROFILE{WAYS_ON}"
    ):
        fetch(f"s3://{CLOSED}/model", config)


def test_credentials_are_used(
    store: ObjectStore, config: DownloadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("model/a", b"a", CLOSED)
    owner(monkeypatch)
    assert (fetch(f"s3://{CLOSED}/model", config) / "a").read_bytes() == b"a"


@pytest.mark.parametrize(("key", "secret"), [("stranger", SECRET), (KEY, "wrong")])
def test_credentials_for_something_else_do_not_hinder(
    model: str, config: DownloadConfig, monkeypatch: pytest.MonkeyPatch, key: str, secret: str
) -> None:
    owner(monkeypatch, key, secret)
    assert fetch(model, config).read_bytes() == b"model"


def test_names_that_only_google_allows_are_sent(store: ObjectStore, config: DownloadConfig) -> None:
    with pytest.raises(CheckpointError, match="no permission without credentials"):
        fetch(PUBLIC_TOKENIZER, config)


def test_half_of_the_credentials(
    model: str, config: DownloadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    with pytest.raises(CheckpointError, match=f"AWS_SECRET_ACCESS_KEY.*{WAYS_ON}"):
        fetch(model, config)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_an_endpoint_that_does_not_answer(config: DownloadConfig, scheme: str) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        config.s3_endpoint = config.gs_endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(
            CheckpointError, match=f"cannot be reached .*download.{scheme}_endpoint= .*{WAYS_ON}"
        ):
            fetch(f"{scheme}://{OPEN}/errors/model", config)


def test_an_endpoint_that_is_none(config: DownloadConfig) -> None:
    config.s3_endpoint = "nonsense"
    with pytest.raises(CheckpointError, match=f"cannot be reached .*nonsense{WAYS_ON}"):
        fetch(f"s3://{OPEN}/errors/model", config)


def test_the_environment_names_amazons_stand_in(
    model: str, config: DownloadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.s3_endpoint is not None
    monkeypatch.setenv("AWS_ENDPOINT_URL", config.s3_endpoint)
    config.s3_endpoint = None
    assert fetch(model, config).read_bytes() == b"model"


def test_too_little_space(
    model: str, config: DownloadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(Path(str(config.cache_dir)).parent)._replace(free=4)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        CheckpointError,
        match=r"5 bytes are needed, 4 bytes are free at .*OPENPI_DATA_HOME.*model=tiny",
    ):
        fetch(model, config)


def test_a_disk_that_fills_up(
    model: str, config: DownloadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("worker.checkpoints.download.transfer._write", full)
    with pytest.raises(CheckpointError, match=r"it filled up, .* are free at .*OPENPI_DATA_HOME"):
        fetch(model, config)


def test_a_cache_that_cannot_be_made(model: str, config: DownloadConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config.cache_dir = str(tmp_path / "file" / "cache")
    with pytest.raises(CheckpointError, match=r"cannot be written .*download\.cache_dir= names"):
        fetch(model, config)


@pytest.mark.parametrize("address", ["s3://", "s3://bucket", "gs://bucket/", "s3:///key"])
def test_half_an_address(config: DownloadConfig, address: str) -> None:
    with pytest.raises(CheckpointError, match=r"is not of the form (s3|gs)://bucket/folder"):
        fetch(address, config)


@pytest.mark.parametrize("address", ["s3://bucket/../../etc", "gs://../x", "s3://b/a/../../../x"])
def test_an_address_outside_of_the_cache(config: DownloadConfig, address: str) -> None:
    with pytest.raises(CheckpointError, match="is not of the form"):
        Cache(config).has(address)


@pytest.mark.parametrize("path", ["../outside", "a/../../outside", "a//b", "/etc/passwd"])
def test_an_object_whose_name_leads_elsewhere(path: str) -> None:
    files = [RemoteFile(path, f"model/{path}", 1, "etag")]
    with pytest.raises(CheckpointError, match="holds an object of the impossible name model/"):
        check_paths(Address("s3", "bucket", "model"), files)
