"""Policies whose checkpoint lies in object storage: in this process, and served by real ones."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from client import ZmqPolicyClient
from client.errors import WorkerLoading
from scripts.local.processes import Process, Processes, free_ports
from tests.golden import (
    CHECKPOINTS,
    FAST_CHECKPOINT,
    FLOW_CHECKPOINTS,
    FOLDER,
    TOKENIZER,
    cases,
    jax_form,
    overrides,
)
from tests.worker.checkpoints.download.link import Link
from tests.worker.checkpoints.download.object_store import OPEN, ObjectStore
from tests.worker.composition import make_fast_policy, make_policy
from worker.config import DownloadConfig
from worker.errors import CheckpointError

GOLDEN = f"s3://{OPEN}/golden"
PATIENCE_S = 60.0


@pytest.fixture(scope="module", autouse=True)
def _golden_in_store(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> None:
    """All checkpoints, in both forms."""
    for checkpoint in FLOW_CHECKPOINTS:
        folder = tmp_path_factory.mktemp("jax")
        jax = jax_form(checkpoint, folder)
        for name in ("params", "assets"):
            store.put_folder(f"golden/jax/{checkpoint}/{name}", (jax / name).resolve())
    for checkpoint in CHECKPOINTS:
        store.put_folder(f"golden/torch/{checkpoint}", FOLDER / checkpoint)


def download(config: DownloadConfig) -> list[str]:
    """The settings on the command line."""
    return [
        f"download.cache_dir='{config.cache_dir}'",
        f"download.s3_endpoint='{config.s3_endpoint}'",
        f"download.gs_endpoint='{config.gs_endpoint}'",
    ]


LOCATIONS = [
    *((checkpoint, "torch") for checkpoint in CHECKPOINTS),
    *((checkpoint, "jax") for checkpoint in FLOW_CHECKPOINTS),
]


@pytest.mark.parametrize(("checkpoint", "form"), LOCATIONS)
def test_golden_agrees_through_the_store(
    config: DownloadConfig, checkpoint: str, form: str
) -> None:
    location = f"{GOLDEN}/{form}/{checkpoint}"
    make = make_fast_policy if checkpoint == FAST_CHECKPOINT else make_policy
    policy = make(*overrides(checkpoint, location), *download(config))
    assert policy.digest is None
    assert policy.metadata["digest"] is None
    policy.load()
    case = cases(checkpoint)[-1]
    sent = {k: v for k, v in {**case.observation, "noise": case.noise}.items() if v is not None}
    actions = policy.infer(sent)["actions"]
    np.testing.assert_allclose(actions, case.actions, atol=1e-3, rtol=0)
    again = make(*overrides(checkpoint, location), *download(config))
    assert again.digest == policy.digest == policy.metadata["digest"] is not None


def test_a_digest_does_not_tell_where_a_checkpoint_came_from(config: DownloadConfig) -> None:
    location = f"gs://{OPEN}/golden/torch/pi0_aloha"
    policy = make_policy(*overrides("pi0_aloha", location), *download(config))
    policy.load()
    assert policy.digest == make_policy(*overrides("pi0_aloha")).digest


def test_the_public_tokenizer_is_had_where_none_is_named(
    store: ObjectStore, config: DownloadConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Google allows the name of its bucket, big_vision; this store, like Amazon's, does not.
    store.put("paligemma_tokenizer.model", TOKENIZER.read_bytes())
    public = f"gs://{OPEN}/paligemma_tokenizer.model"
    monkeypatch.setattr("worker.checkpoints.files.PUBLIC_TOKENIZER", public)
    settings = [s for s in overrides("pi05_libero") if not s.startswith("tokenizer=")]
    policy = make_policy(*settings, *download(config))
    assert policy.digest is None
    policy.load()
    assert policy.digest == make_policy(*overrides("pi05_libero")).digest


def test_a_prefix_without_statistics_is_downloaded_once_and_refused(
    store: ObjectStore, config: DownloadConfig
) -> None:
    store.put_folder("golden/bare/params", FOLDER / "pi0_aloha" / "params")
    policy = make_policy(*overrides("pi0_aloha", f"{GOLDEN}/bare"), *download(config))
    with pytest.raises(CheckpointError, match="statistics for nothing"):
        policy.load()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    with Processes(tmp_path / "logs") as started:
        yield started


class Served:
    """A broker, and workers of one golden checkpoint."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self.port, self._back = free_ports(2)
        ends = [f"frontend=tcp://127.0.0.1:{self.port}", f"backend=tcp://127.0.0.1:{self._back}"]
        processes.start("broker", "broker", *ends).wait_ready()

    def worker(self, name: str, *settings: str) -> Process:
        broker = f"broker=tcp://127.0.0.1:{self._back}"
        fixed = ["device=cpu", "dtype=float32", "runtime.threads=1"]
        return self._processes.start(name, "worker", broker, *fixed, *settings)

    def client(self) -> ZmqPolicyClient:
        return ZmqPolicyClient(
            "127.0.0.1", self.port, timeout_s=PATIENCE_S, connect_timeout_s=PATIENCE_S
        )


def wait_registered(worker: Process) -> None:
    """Return once the broker has welcomed it, loaded or not."""
    while "registered as" not in worker.log.read_text():
        assert worker.is_alive(), worker.last_words()
        time.sleep(0.02)


def test_a_worker_serves_what_it_downloads(
    processes: Processes, config: DownloadConfig, link: Link
) -> None:
    served = Served(processes)
    link.open.clear()
    location = f"{GOLDEN}/jax/pi0_aloha_sim"
    worker = served.worker("one", *overrides("pi0_aloha_sim", location), *download(config))
    case = cases("pi0_aloha_sim")[0]
    sent = {**case.observation, "noise": case.noise}
    with served.client() as client:
        wait_registered(worker)
        assert client.get_server_metadata()["digest"] is None
        with pytest.raises(WorkerLoading):
            client.infer(sent, deadline_s=2.0)
        link.open.set()
        worker.wait_ready()
        np.testing.assert_allclose(client.infer(sent)["actions"], case.actions, atol=1e-3, rtol=0)
        digest = client.get_server_metadata()["digest"]
        assert digest is not None
        # One with the same files on its own disk is welcome beside it; one with others is not.
        kept = Path(str(config.cache_dir)) / OPEN / "golden/jax/pi0_aloha_sim"
        served.worker("two", *overrides("pi0_aloha_sim", kept)).wait_ready()
        other = served.worker("three", *overrides("pi0_aloha_sim"))
        assert other.wait(PATIENCE_S) == 4
        assert client.get_server_metadata()["digest"] == digest


def test_a_worker_that_turns_out_different_is_refused(
    processes: Processes, config: DownloadConfig, link: Link
) -> None:
    served = Served(processes)
    link.open.clear()
    location = f"{GOLDEN}/torch/pi0_aloha_sim"
    late = served.worker("late", *overrides("pi0_aloha_sim", location), "seed=1", *download(config))
    with served.client() as client:
        wait_registered(late)
        served.worker("early", *overrides("pi0_aloha_sim")).wait_ready()
        link.open.set()
        assert late.wait(PATIENCE_S) == 4
        assert "already served with digest" in late.last_words()
        assert client.infer(cases("pi0_aloha_sim")[0].observation)["actions"].shape == (50, 14)


def test_a_worker_that_cannot_download_says_why(processes: Processes, tmp_path: Path) -> None:
    served = Served(processes)
    (nobody,) = free_ports(1)
    location = f"gs://{OPEN}/golden/torch/pi0_aloha_sim"
    settings = [f"download.gs_endpoint=http://127.0.0.1:{nobody}", f"download.cache_dir={tmp_path}"]
    worker = served.worker("lost", *overrides("pi0_aloha_sim", location), *settings)
    assert worker.wait(PATIENCE_S) == 3
    words = worker.last_words()
    assert f"{location} cannot be downloaded: http://127.0.0.1:{nobody} cannot be reached" in words
    assert "model=tiny" in words
    assert "Traceback" not in words


def test_a_worker_can_be_stopped_while_it_downloads(
    processes: Processes, config: DownloadConfig, link: Link
) -> None:
    served = Served(processes)
    link.open.clear()
    location = f"{GOLDEN}/torch/pi0_aloha_sim"
    worker = served.worker("one", *overrides("pi0_aloha_sim", location), *download(config))
    wait_registered(worker)
    while not link.connections:
        assert worker.is_alive(), worker.last_words()
        time.sleep(0.02)
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0
