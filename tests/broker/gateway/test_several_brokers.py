"""A gateway before two brokers: killed and restarted under its clients' load."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from scripts.local.processes import Process, Processes
from tests.broker.gateway.site import RunningGateway, Site
from tests.e2e.stack import Stack, eventually
from worker.policies.echo import fingerprint

_ROBOTS = 4


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Site, Stack]]:
    """The site whose broker is the first, and the second one's stack, with nothing started yet."""
    with Processes(tmp_path / "first") as first, Processes(tmp_path / "second") as second:
        site, stack = Site(first, tmp_path), Stack(second, tmp_path)
        yield site, stack
        for each in (site.stack, stack):
            each.close()


def address(stack: Stack) -> str:
    return f"tcp://127.0.0.1:{stack.frontend}"


def started(pair: tuple[Site, Stack], *settings: str) -> tuple[Process, RunningGateway]:
    """Two brokers, each with a worker of its own, and a gateway of both; the first one is told."""
    site, second = pair
    first = site.stack.broker("timers.drain_ms=2000")
    second.broker()
    for worker in [stack.worker("echo", "policy.time_s=0.005") for stack in (site.stack, second)]:
        worker.wait_ready()
    brokers = ",".join([address(site.stack), address(second)])
    running: RunningGateway = site.gateway(f"broker=[{brokers}]", *settings)
    running.process.wait_ready()
    return first, running


class Load:
    """Openpi's clients that ask without a pause; any answer that is not theirs is kept."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.answers = [0] * _ROBOTS
        self.errors: list[BaseException] = []
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(gateway, number)) for number in range(_ROBOTS)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, gateway: RunningGateway, robot: int) -> None:
        try:
            with gateway.connect(robot=None) as client:
                while not self._is_over.is_set():
                    observation = {"robot": robot, "count": self.answers[robot]}
                    answer = client.ask(observation)
                    if isinstance(answer, str):
                        raise AssertionError(answer)
                    assert answer["actions"][0, 0] == fingerprint(observation)
                    self.answers[robot] += 1
        except BaseException as error:  # noqa: BLE001 (the test raises it)
            self.errors.append(error)

    def go_on(self) -> None:
        """Return once each has had ten more answers."""
        wanted = [count + 10 for count in self.answers]
        eventually(
            lambda: self.errors or all(a >= b for a, b in zip(self.answers, wanted, strict=True)),
            "every client is answered again",
        )
        if self.errors:
            raise self.errors[0]

    def end(self) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


@contextmanager
def load(gateway: RunningGateway) -> Iterator[Load]:
    robots = Load(gateway)
    try:
        yield robots
    finally:
        robots.end()


def accepted(stack: Stack) -> int:
    """Requests that a broker has taken so far."""
    with stack.client() as client:
        count: int = client.status()["counters"].get("accepted", 0)
    return count


def shown(gateway: RunningGateway, query: str = "") -> tuple[str, dict[str, Any]]:
    """Which broker `/status` shows, and all that it tells."""
    told = json.loads(gateway.get(f"/status{query}", robot=None)[1])
    (address,) = [each["address"] for each in told["brokers"] if each["is_shown"]]
    return address, told


def test_a_broker_killed_under_load_costs_the_clients_no_answer(pair: tuple[Site, Stack]) -> None:
    victim, gateway = started(pair)
    first, second = pair[0].stack, pair[1]
    with load(gateway) as robots:
        robots.go_on()
        assert accepted(second) == 0
        victim.kill()
        robots.go_on()
        assert accepted(second) > 0
        victim = first.broker("timers.drain_ms=2000")
        eventually(lambda: robots.errors or accepted(first) > 0, "they go back")
        robots.go_on()
        victim.terminate()  # and a planned stop
        robots.go_on()
    gateway.process.check()
    assert "Traceback" not in gateway.process.log.read_text()


def test_a_broker_that_hangs_under_load_costs_the_clients_no_answer(
    pair: tuple[Site, Stack],
) -> None:
    stopped, gateway = started(pair)
    first, second = pair[0].stack, pair[1]
    with load(gateway) as robots:
        robots.go_on()
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            robots.go_on()  # long before deadline_s, which is 90 s
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        assert accepted(second) > 0
        before = accepted(first)
        eventually(lambda: robots.errors or accepted(first) > before + 10, "they go back")
        robots.go_on()
    log = gateway.process.log.read_text()
    assert "hangs: it does not answer, another one does" in log
    assert "Traceback" not in log


def test_a_long_inference_is_waited_for_where_its_broker_answers(
    pair: tuple[Site, Stack],
) -> None:
    site, second = pair
    for stack in (site.stack, second):
        stack.broker()
    slow = site.stack.gate("echo")
    for worker in (slow, second.worker("echo")):
        worker.wait_ready()
    brokers = ",".join([address(site.stack), address(second)])
    gateway: RunningGateway = site.gateway(f"broker=[{brokers}]")
    gateway.process.wait_ready()
    with gateway.connect(robot=None) as robot, site.stack.client() as watcher:
        robot.send({"tag": 1})
        eventually(lambda: site.stack.is_inside(slow), "it has begun")
        before = watcher.status()["counters"]["frontend accepted"]
        eventually(
            lambda: watcher.status()["counters"]["frontend accepted"] >= before + 2,
            "it has asked twice",
        )
        site.stack.open_gate()
        assert robot.receive()["tag"] == 1
        assert accepted(second) == 0


def test_the_first_broker_that_answers_is_shown_and_metrics_have_both(
    pair: tuple[Site, Stack],
) -> None:
    victim, gateway = started(pair)
    first, second = address(pair[0].stack), address(pair[1])
    with gateway.connect(robot=None) as client:
        client.ask({"tag": 1})
    name, told = shown(gateway)
    assert name == first
    assert [each["trouble"] for each in told["brokers"]] == ["", ""]
    assert shown(gateway, f"?broker={second}")[0] == second
    metrics = gateway.get("/metrics", robot=None)[1]
    for each in (first, second):
        assert f'zmq_policy_broker_up{{broker="{each}"}} 1.0' in metrics
        assert f'zmq_policy_workers{{broker="{each}",policy="echo",state="ready"}} 1.0' in metrics
    assert metrics.count("# TYPE zmq_policy_broker_up gauge") == 1
    victim.kill()
    eventually(lambda: shown(gateway)[0] == second, "the one that answers is shown")
    name, told = shown(gateway, f"?broker={first}")
    assert name == first
    assert "no broker answers" in told["trouble"]
    metrics = gateway.get("/metrics", robot=None)[1]
    assert f'zmq_policy_broker_up{{broker="{first}"}} 0.0' in metrics
    assert f'zmq_policy_broker_up{{broker="{second}"}} 1.0' in metrics


def test_a_list_with_a_dead_a_foreign_and_a_duplicate_entry_works(site: Site) -> None:
    site.stack.broker()
    site.stack.worker("echo").wait_ready()
    good, foreign = address(site.stack), f"tcp://127.0.0.1:{site.stack.backend}"
    gateway = site.gateway(f"broker=[tcp://127.0.0.1:9,{foreign},{good},{good}]")
    gateway.process.wait_ready()
    with gateway.connect(robot=None) as client:
        for tag in range(3):
            assert client.ask({"tag": tag})["actions"][0, 0] == fingerprint({"tag": tag})
    assert len(shown(gateway)[1]["brokers"]) == 3
    eventually(lambda: shown(gateway)[0] == good, "the one that answers is shown")


def test_nobody_there_is_told_of_every_broker_at_the_deadline(site: Site) -> None:
    gateway = site.gateway("broker=[tcp://127.0.0.1:9,tcp://127.0.0.1:11]", "deadline_s=1")
    gateway.process.wait_ready()
    with pytest.raises(ConnectionClosed, match="no broker answers") as found:
        gateway.connect(robot=None)
    assert "127.0.0.1:9" in str(found.value)
