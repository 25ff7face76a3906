"""Downloads from a real S3 server: complete or not at all, resumed, checked, shared."""

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.golden import FOLDER
from tests.worker.checkpoints.download.link import Link
from tests.worker.checkpoints.download.object_store import OPEN, ObjectStore
from worker.checkpoints.download import Cache, fetch
from worker.config import DownloadConfig
from worker.errors import CheckpointError

NOISE = np.random.default_rng(0).bytes(1_000_000)
RANGE_BYTES = 100_000
OVERHEAD_BYTES = 200_000
"""What answers' headers, listings and bytes under way at a cut may come to."""


@pytest.fixture(autouse=True)
def _small_and_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.checkpoints.download.partial.RANGE_BYTES", RANGE_BYTES)
    monkeypatch.setattr("worker.checkpoints.download.store.CHUNK_BYTES", 10_000)
    monkeypatch.setattr("worker.checkpoints.download.transfer.FIRST_PAUSE_S", 0.001)


@pytest.fixture
def noise(store: ObjectStore, request: pytest.FixtureRequest) -> str:
    """The address of a folder with one large and two small objects, of this test alone."""
    prefix = f"{request.node.name}/model"
    store.put(f"{prefix}/model.safetensors", NOISE)
    store.put(f"{prefix}/assets/droid/norm_stats.json", b"{}")
    store.put(f"{prefix}/empty", b"")
    return f"s3://{OPEN}/{prefix}"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_whole(path: Path) -> None:
    """All of `noise`, and nothing left beside it but the lock and the mark."""
    assert contents(path) == {
        "model.safetensors": NOISE,
        "assets/droid/norm_stats.json": b"{}",
        "empty": b"",
    }
    beside = {path.name, f".{path.name}.lock", f".{path.name}.complete"}
    assert {p.name for p in path.parent.iterdir()} == beside


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_folder_comes_to_its_place_in_the_cache(
    noise: str, config: DownloadConfig, link: Link, scheme: str
) -> None:
    address = noise.replace("s3://", f"{scheme}://")
    path = fetch(address, config)
    assert path == Cache(config).folder / OPEN / address.split(f"{OPEN}/")[1]
    assert_whole(path)
    before = link.connections
    assert fetch(address, config) == path
    assert link.connections == before


def test_a_single_object_is_a_file(store: ObjectStore, config: DownloadConfig) -> None:
    store.put("words/tokenizer.model", b"words")
    path = fetch(f"gs://{OPEN}/words/tokenizer.model", config)
    assert path.read_bytes() == b"words"
    assert path == Cache(config).folder / OPEN / "words" / "tokenizer.model"


def test_the_training_state_and_a_second_form_stay_there(
    store: ObjectStore, config: DownloadConfig
) -> None:
    for key in ("model.safetensors", "params/d/1", "train_state/d/1", "assets/a/norm_stats.json"):
        store.put(f"trained/both/{key}", b"x")
        if not key.startswith("model"):
            store.put(f"trained/jax/{key}", b"x")
    both, jax = (contents(fetch(f"s3://{OPEN}/trained/{f}", config)) for f in ("both", "jax"))
    assert both.keys() == {"model.safetensors", "assets/a/norm_stats.json"}
    assert jax.keys() == {"params/d/1", "assets/a/norm_stats.json"}


def test_long_listings_are_read_to_the_end(
    store: ObjectStore, config: DownloadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.checkpoints.download.store.PAGE_SIZE", 2)
    for number in range(5):
        store.put(f"many/small/{number}", b"x")
    assert len(contents(fetch(f"s3://{OPEN}/many/small", config))) == 5


def test_more_files_than_a_process_may_open(store: ObjectStore, config: DownloadConfig) -> None:
    for number in range(150):
        store.put(f"many/files/{number}", b"x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 100, hard))
    try:
        path = fetch(f"s3://{OPEN}/many/files", config)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(contents(path)) == 150


def test_cut_connections_go_on_where_they_were(
    noise: str, config: DownloadConfig, link: Link
) -> None:
    link.cut_after = 30_000
    assert_whole(fetch(noise, config))
    assert link.connections > len(NOISE) / link.cut_after
    assert link.received < 1.5 * len(NOISE) + OVERHEAD_BYTES


def test_a_broken_download_is_kept_and_resumed(
    noise: str, config: DownloadConfig, link: Link
) -> None:
    link.allowance = 700_000
    with pytest.raises(CheckpointError, match="cannot be downloaded") as raised:
        fetch(noise, config)
    assert "start again to go on" in str(raised.value)
    assert "model=tiny" in str(raised.value)
    assert not Cache(config).has(noise)
    link.allowance, link.received = None, 0
    assert_whole(fetch(noise, config))
    # Four ranges were under way; the others are not asked for again.
    assert link.received < len(NOISE) - 700_000 + 4 * RANGE_BYTES + OVERHEAD_BYTES


def test_an_object_that_changed_meanwhile_is_started_afresh(
    noise: str, store: ObjectStore, config: DownloadConfig, link: Link
) -> None:
    link.allowance = 700_000
    with pytest.raises(CheckpointError):
        fetch(noise, config)
    store.put(f"{noise.removeprefix(f's3://{OPEN}/')}/model.safetensors", NOISE[::-1])
    link.allowance = None
    assert (fetch(noise, config) / "model.safetensors").read_bytes() == NOISE[::-1]


def damage_content(workshop: Path) -> None:
    """A bit of what came is not what the store has."""
    path = workshop / "content" / "model.safetensors"
    data = bytearray(path.read_bytes())
    # Of a range that is noted as finished.
    start = int((workshop / "journals/model.safetensors/ranges").read_text().split("\n")[1])
    data[start] ^= 1
    path.write_bytes(data)


def test_a_wrong_checksum_is_noticed_and_mended(
    noise: str, config: DownloadConfig, link: Link
) -> None:
    link.allowance = 700_000
    with pytest.raises(CheckpointError):
        fetch(noise, config)
    damage_content(Cache(config).folder / OPEN / noise.split("/")[3] / ".model.download")
    link.allowance = None
    with pytest.raises(CheckpointError, match=r"model\.safetensors came with another md5"):
        fetch(noise, config)
    assert not Cache(config).has(noise)
    assert_whole(fetch(noise, config))


def forget_content(workshop: Path) -> None:
    (workshop / "content" / "model.safetensors").unlink()


def tear_journal(workshop: Path) -> None:
    """Its last line was being written when the power went."""
    path = workshop / "journals/model.safetensors/ranges"
    path.write_text(path.read_text().rstrip("\n")[:-1])


def shorten_content(workshop: Path) -> None:
    path = workshop / "content" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("harm", [forget_content, shorten_content, tear_journal])
def test_what_a_crash_left_is_no_hindrance(
    noise: str, config: DownloadConfig, link: Link, harm: Callable[[Path], None]
) -> None:
    link.allowance = 700_000
    with pytest.raises(CheckpointError):
        fetch(noise, config)
    harm(Cache(config).folder / OPEN / noise.split("/")[3] / ".model.download")
    link.allowance = None
    assert_whole(fetch(noise, config))


FETCH = """
import sys
from worker.config import DownloadConfig
from worker.checkpoints.download import fetch
folder, endpoint, address = sys.argv[1:]
fetch(address, DownloadConfig(cache_dir=folder, s3_endpoint=endpoint, connections=2))
"""


def start(noise: str, config: DownloadConfig) -> "subprocess.Popen[bytes]":
    """A process of its own that wants `noise`."""
    arguments = [str(config.cache_dir), str(config.s3_endpoint), noise]
    return subprocess.Popen([sys.executable, "-c", FETCH, *arguments])


def test_two_processes_download_once(noise: str, config: DownloadConfig, link: Link) -> None:
    both = [start(noise, config), start(noise, config)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert_whole(Cache(config).folder / noise.removeprefix("s3://"))
    assert link.received < len(NOISE) + OVERHEAD_BYTES


def test_another_process_takes_over_from_one_that_was_killed(
    noise: str, config: DownloadConfig, link: Link
) -> None:
    link.open.clear()
    first = start(noise, config)
    while not link.connections:
        assert first.poll() is None
        time.sleep(0.02)
    second = start(noise, config)
    first.kill()
    assert first.wait(60) != 0
    link.open.set()
    assert second.wait(60) == 0
    assert_whole(Cache(config).folder / noise.removeprefix("s3://"))


def test_golden_comes_as_it_is(store: ObjectStore, config: DownloadConfig) -> None:
    folder = FOLDER / "pi0_fast_droid"
    store.put_folder("golden/pi0_fast_droid", folder)
    assert contents(fetch(f"gs://{OPEN}/golden/pi0_fast_droid", config)) == contents(folder)


@pytest.mark.parametrize("there", ["params", "assets"])
def test_half_a_checkpoint_of_the_public_system_is_completed(
    store: ObjectStore, config: DownloadConfig, link: Link, there: str
) -> None:
    """It fetches `params` and `assets` as addresses of their own, each with a lock beside it."""
    location, kept = f"gs://{OPEN}/halves/{there}", Cache(config).folder / OPEN / "halves" / there
    for name in ("params", "assets"):
        store.put(f"halves/{there}/{name}/data", NOISE)
    fetch(f"{location}/{there}", config)
    (kept / f"{there}.lock").touch()
    assert not Cache(config).has(location)
    link.received = 0
    fetch(location, config)
    assert contents(kept).keys() >= {"params/data", "assets/data"}
    assert (kept / "params" / "data").read_bytes() == (kept / "assets" / "data").read_bytes()
    assert link.received < len(NOISE) + OVERHEAD_BYTES
    assert Cache(config).has(location)
