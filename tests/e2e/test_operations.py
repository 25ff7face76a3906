"""What an operator does to running processes: stop them in order, and read their logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import errors
from scripts.local.processes import Processes, free_ports
from tests.e2e.site import PATIENCE_S, Site, until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Processes(tmp_path) as processes:
        yield Site(processes, None)


def outcome(site: Site, into: list[object], **options: object) -> threading.Thread:
    """Ask once, in a thread; what came of it goes `into` a list."""

    def run() -> None:
        with site.client(**options) as client:  # type: ignore[arg-type]
            try:
                into.append(client.infer({"x": 1})["actions"].shape)
            except errors.PolicyError as error:
                into.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def in_hand(site: Site) -> int:
    with site.client() as client:
        return sum(worker["in_hand"] for worker in client.status()["workers"])


def waiting(site: Site) -> int:
    with site.client() as client:
        return sum(client.status()["queues"].values())


def test_a_planned_restart_finishes_what_workers_have_and_costs_no_robot_an_error(
    site: Site,
) -> None:
    broker = site.start_broker("timers.drain_ms=20000")
    site.start_worker("slow", "policy=noop", "policy.time_s=1.5", "name=slow").wait_ready()
    first: list[object] = []
    second: list[object] = []
    threads = [outcome(site, first)]
    until(lambda: in_hand(site) == 1)
    threads.append(outcome(site, second))
    until(lambda: waiting(site) == 1)
    broker.terminate()
    assert broker.wait(PATIENCE_S) == 0
    site.start_broker()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert first == [(50, 14)]
    assert second == [(50, 14)]


def test_a_stopping_worker_finishes_and_gets_nothing_new(site: Site) -> None:
    site.start_broker()
    slow = ("policy=noop", "policy.time_s=0.4", "name=slow")
    worker = site.start_worker("one", *slow)
    worker.wait_ready()
    answers: list[object] = []
    thread = outcome(site, answers)
    until(lambda: in_hand(site) == 1)
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0
    thread.join(PATIENCE_S)
    assert answers == [(50, 14)]
    with site.client(timeout_s=1.5) as client, pytest.raises(errors.NoWorker):
        client.infer({"x": 1})


def test_a_worker_at_the_robots_port_is_told_where_it_belongs(site: Site) -> None:
    site.start_broker()
    site.back, right = site.port, site.back
    worker = site.start_worker("lost", "policy=echo")
    assert worker.wait(PATIENCE_S) == 4
    assert f"backend, tcp://127.0.0.1:{right}" in worker.last_words()


def test_a_worker_whose_terminal_goes_drains(site: Site) -> None:
    site.start_broker()
    worker = site.start_worker("one", "policy=noop", "policy.time_s=0.4")
    worker.wait_ready()
    answers: list[object] = []
    thread = outcome(site, answers)
    until(lambda: in_hand(site) == 1)
    os.kill(worker.pid, signal.SIGHUP)
    assert worker.wait(PATIENCE_S) == 0
    thread.join(PATIENCE_S)
    assert answers == [(50, 14)]


def test_json_logs_of_both_processes_name_the_request(site: Site) -> None:
    broker = site.start_broker("log_format=json")
    wrong = "policy.action_dim=wrong"  # noticed only when it is used
    worker = site.start_worker("wrong", "policy=echo", wrong, "log_format=json")
    worker.wait_ready()
    with site.client(robot="arm-7") as client:
        with pytest.raises(errors.PolicyFailed):
            client.infer({"x": 1})
        request = client._session.client.hex()[:8]
    for process, level in ((broker, "warning"), (worker, "error")):
        lines = [json.loads(line) for line in process.log.read_text().splitlines()]
        (told,) = (line for line in lines if line.get("request", "").startswith(request))
        assert told["level"] == level
        if process is broker:
            assert told["robot"] == "arm-7"
            assert "PolicyFailed" in told["message"]
        else:
            assert "TypeError" in told["traceback"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["broker", "worker"])
def test_a_signal_while_a_process_still_imports_ends_it_with_0(
    module: str, number: signal.Signals
) -> None:
    # It says what it imports: zmq is what follows the first handlers.
    command = [sys.executable, "-X", "importtime", "-m", module]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while "zmq." not in said:
            said = process.stderr.readline()
            assert said, "it ended before"
        process.send_signal(number)
        rest = process.stderr.read()
    assert process.returncode == 0
    assert "Traceback" not in rest
    assert "ready" not in rest


@pytest.mark.parametrize(
    ("module", "settings", "code"),
    [
        ("broker", ["frontend=tcp://127.0.0.1:1"], None),
        ("broker", ["log_format=xml"], 2),
        ("broker", ["keys=a", "insecure=true"], 2),
        ("broker", ["limits.max_bytes_per_robot=10"], 2),
        ("worker", ["log_format=xml"], 2),
        ("worker", ["policy=noop", "key=nowhere.key"], 2),
    ],
)
def test_each_cause_has_its_exit_code(
    tmp_path: Path, module: str, settings: list[str], code: int | None
) -> None:
    with Processes(tmp_path) as processes:
        if code is None:  # cannot bind: someone else is there
            site, code = Site(processes, None), 3
            site.start_broker()
            (free,) = free_ports(1)
            settings = [
                f"frontend=tcp://127.0.0.1:{site.port}",
                f"backend=tcp://127.0.0.1:{free}",
            ]
        process = processes.start("one", module, *settings)
        assert process.wait(PATIENCE_S) == code, process.last_words()
