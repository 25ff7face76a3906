"""`python -m worker` as a shell, a service manager or a person without patience meets it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.local.forks import die_with
from scripts.local.processes import free_ports
from tests.worker.test_service import Broker

WAIT_S = 60.0  # only ever used up where something is wrong


class Running:
    """A worker that is registered with a broker of the test's, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, broker: Broker) -> None:
        self.process, self._log, self.broker = process, log, broker

    def log(self) -> str:
        return self._log.read_text()

    def end(self) -> str:
        """Wait for the end that was asked for; returns the log."""
        assert self.process.wait(WAIT_S) == 0, self.log()
        return self.log()


@contextmanager
def worker(folder: Path, ignored: Sequence[signal.Signals] = ()) -> Iterator[Running]:
    """Start one that is ready, with these signals ignored."""
    die, broker, log = die_with(os.getpid()), Broker(), folder / "worker.log"

    def prepare() -> None:
        die()
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    command = [sys.executable, "-m", "worker", "policy=echo", f"broker={broker.endpoint}"]
    with (
        open(log, "wb") as file,
        subprocess.Popen(command, stderr=file, start_new_session=True, preexec_fn=prepare) as child,
    ):
        try:
            broker.welcomes()
            yield Running(child, log, broker)
        finally:
            child.kill()
            broker.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_why_it_stops_is_logged(tmp_path: Path, number: signal.Signals) -> None:
    with worker(tmp_path) as running:
        running.process.send_signal(number)
        running.broker.hears("heartbeat", state="draining")
        assert f"stopping: received {number.name}" in running.end()


def test_what_was_ignored_from_the_start_stays_ignored(tmp_path: Path) -> None:
    with worker(tmp_path, ignored=[signal.SIGHUP, signal.SIGINT]) as running:
        running.process.send_signal(signal.SIGHUP)
        running.process.send_signal(signal.SIGINT)
        running.process.send_signal(signal.SIGTERM)  # is handled after them
        log = running.end()
    assert [line for line in log.splitlines() if "stopping" in line] == [
        line for line in log.splitlines() if "received SIGTERM" in line
    ]
    assert "received SIGTERM" in log


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT_S, check=False
    )


class NeedsTokenizers:
    """A policy whose package is not installed."""

    def __init__(self) -> None:
        raise ModuleNotFoundError("No module named 'tokenizers'", name="tokenizers")


def run_without(missing: str, *settings: str) -> subprocess.CompletedProcess[str]:
    """Run a worker as where a package is not installed."""
    (port,) = free_ports(1)
    arguments = ["worker", "env=aloha_sim", "model=tiny", f"broker=tcp://127.0.0.1:{port}"]
    return run(
        f"import runpy, sys; sys.modules[{missing!r}] = None; sys.argv = {[*arguments, *settings]};"
        "runpy.run_module('worker', run_name='__main__', alter_sys=True)"
    )


@pytest.mark.parametrize(
    ("missing", "settings"),
    [
        ("hydra", []),
        ("omegaconf", []),
        ("tokenizers", ["policy={_target_: tests.worker.test_process.NeedsTokenizers}"]),
    ],
)
def test_without_its_extra_it_says_which_one_to_install(missing: str, settings: list[str]) -> None:
    """As where the robot's plain install, or only the broker's extra, is there."""
    done = run_without(missing, *settings)
    assert done.returncode == 2, done.stderr
    assert f"needs {missing}" in done.stderr
    assert "pip install 'zmq-policy-broker[worker]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_package_that_is_missed_when_the_model_is_loaded() -> None:
    done = run_without("torch")
    assert done.returncode == 3, done.stderr
    assert "the worker needs torch" in done.stderr
    assert "Traceback" not in done.stderr
