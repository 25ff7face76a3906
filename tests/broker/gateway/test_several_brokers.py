"""A gateway before two brokers: killed and restarted under its clients' load."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from scripts.local.processes import Process, Processes
from tests.broker.gateway.site import RunningGateway, Site
from tests.e2e.stack import Stack, eventually
from tests.robots import Ask, Robots
from worker.policies.echo import fingerprint

_ROBOTS = 4


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A broker with a worker of its own, to which nothing happens."""
    folder = tmp_path_factory.mktemp("second")
    with Processes(folder / "logs") as processes:
        stack = Stack(processes, folder)
        stack.broker()
        stack.worker("echo", "policy.time_s=0.005").wait_ready()
        yield stack
        stack.close()


def address(stack: Stack) -> str:
    return f"tcp://127.0.0.1:{stack.frontend}"


def gateway_of(site: Site, second: Stack) -> RunningGateway:
    """A gateway of both brokers, the site's first."""
    running: RunningGateway = site.gateway(f"broker=[{address(site.stack)},{address(second)}]")
    running.process.wait_ready()
    return running


def started(site: Site, second: Stack) -> tuple[Process, RunningGateway]:
    """The first broker, with a worker of its own, and a gateway of both."""
    first = site.stack.broker("timers.drain_ms=2000")
    site.stack.worker("echo", "policy.time_s=0.005").wait_ready()
    return first, gateway_of(site, second)


@contextmanager
def robot(number: int, gateway: RunningGateway) -> Iterator[Ask]:
    """One of openpi's clients, whose answers are its own."""
    with gateway.connect(robot=None) as client:

        def ask(count: int) -> None:
            observation = {"robot": number, "count": count}
            answer = client.ask(observation)
            if isinstance(answer, str):
                raise AssertionError(answer)
            assert answer["actions"][0, 0] == fingerprint(observation)

        yield ask


def load(gateway: RunningGateway) -> Robots:
    """Clients under way."""
    return Robots([partial(robot, number, gateway) for number in range(_ROBOTS)])


def shown(gateway: RunningGateway, query: str = "") -> tuple[str, dict[str, Any]]:
    """Which broker `/status` shows, and all that it tells."""
    told = json.loads(gateway.get(f"/status{query}", robot=None)[1])
    (address,) = [each["address"] for each in told["brokers"] if each["is_shown"]]
    return address, told


def test_a_broker_killed_under_load_costs_the_clients_no_answer(site: Site, second: Stack) -> None:
    victim, gateway = started(site, second)
    first = site.stack
    with load(gateway) as robots:
        robots.go_on()
        eventually(lambda: robots.errors or first.accepted() > 0, "the first one is preferred")
        before = second.accepted()  # on a busy machine, the first one may have been slow to answer
        victim.kill()
        robots.go_on()
        assert second.accepted() > before
        victim = first.broker("timers.drain_ms=2000")
        eventually(lambda: robots.errors or first.accepted() > 0, "they go back")
        robots.go_on()
        victim.terminate()  # and a planned stop
        robots.go_on()
    gateway.process.check()
    assert "Traceback" not in gateway.process.log.read_text()


def test_a_broker_that_hangs_under_load_costs_the_clients_no_answer(
    site: Site, second: Stack
) -> None:
    stopped, gateway = started(site, second)
    first = site.stack
    with load(gateway) as robots:
        robots.go_on()
        others = second.accepted()
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            robots.go_on()  # long before deadline_s, which is 90 s
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        assert second.accepted() > others
        before = first.accepted()
        eventually(lambda: robots.errors or first.accepted() > before + 10, "they go back")
        robots.go_on()
    log = gateway.process.log.read_text()
    assert "hangs: it does not answer, another one does" in log
    assert "Traceback" not in log


def test_a_long_inference_is_waited_for_where_its_broker_answers(site: Site, second: Stack) -> None:
    site.stack.broker()
    slow = site.stack.gate("echo")
    slow.wait_ready()
    gateway, others = gateway_of(site, second), second.accepted()
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
        assert second.accepted() == others


def test_the_first_broker_that_answers_is_shown_and_metrics_have_both(
    site: Site, second: Stack
) -> None:
    victim, gateway = started(site, second)
    first, other = address(site.stack), address(second)
    with gateway.connect(robot=None) as client:
        client.ask({"tag": 1})
    name, told = shown(gateway)
    assert name == first
    assert [each["trouble"] for each in told["brokers"]] == ["", ""]
    assert shown(gateway, f"?broker={other}")[0] == other
    metrics = gateway.get("/metrics", robot=None)[1]
    for each in (first, other):
        assert f'zmq_policy_broker_up{{broker="{each}"}} 1.0' in metrics
        assert f'zmq_policy_workers{{broker="{each}",policy="echo",state="ready"}} 1.0' in metrics
    assert metrics.count("# TYPE zmq_policy_broker_up gauge") == 1
    victim.kill()
    eventually(lambda: shown(gateway)[0] == other, "the one that answers is shown")
    name, told = shown(gateway, f"?broker={first}")
    assert name == first
    assert "no broker answers" in told["trouble"]
    metrics = gateway.get("/metrics", robot=None)[1]
    assert f'zmq_policy_broker_up{{broker="{first}"}} 0.0' in metrics
    assert f'zmq_policy_broker_up{{broker="{other}"}} 1.0' in metrics


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
