"""Two brokers that back each other up: killed, restarted, and workers of both that die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import ZmqPolicyClient
from scripts.local.link import Network
from scripts.local.processes import Process, Processes
from tests.e2e.stack import WAIT_S, Stack, eventually
from tests.robots import Ask, Robots

_ROBOTS = 6


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


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Stack, Stack]]:
    """The ports of two brokers, with nothing started yet."""
    with Processes(tmp_path / "logs") as processes:
        stacks = Stack(processes, tmp_path), Stack(processes, tmp_path)
        yield stacks
        for stack in stacks:
            stack.close()


def client_of(*stacks: Stack) -> ZmqPolicyClient:
    """A robot that knows these brokers, in this order."""
    hosts = [f"127.0.0.1:{stack.frontend}" for stack in stacks]
    return ZmqPolicyClient(hosts, timeout_s=WAIT_S, connect_timeout_s=WAIT_S)


@contextmanager
def robot(number: int, stacks: tuple[Stack, ...]) -> Iterator[Ask]:
    """One of several robots, whose answers are its own."""
    with client_of(*stacks) as client:

        def ask(count: int) -> None:
            tag = f"{number}/{count}"
            assert client.infer({"tag": tag})["observation"] == {"tag": tag}

        yield ask


def load(*stacks: Stack) -> Robots:
    """Robots under way that know these brokers, in this order."""
    return Robots([partial(robot, number, stacks) for number in range(_ROBOTS)])


def started(stack: Stack) -> Process:
    """A broker with a worker of its own that is ready."""
    broker = stack.broker("timers.drain_ms=2000")
    stack.worker("echo", "policy.time_s=0.005").wait_ready()
    return broker


def test_a_broker_killed_with_another_standing_by_costs_no_answer(
    stack: Stack, second: Stack
) -> None:
    victim = started(stack)
    with load(stack, second) as robots:
        robots.go_on()
        eventually(lambda: stack.accepted() > 0, "the first one is preferred")
        before = second.accepted()  # on a busy machine, the first one may have been slow to connect
        victim.kill()
        robots.go_on()
        assert second.accepted() > before
        # And back again when the first one is there, each in its own time.
        stack.broker()
        eventually(lambda: stack.accepted() > 0, "robots go back")
        robots.go_on()


def test_a_planned_restart_costs_no_answer(stack: Stack, second: Stack) -> None:
    stopped, before = started(stack), second.accepted()
    with load(stack, second) as robots:
        robots.go_on()
        stopped.terminate()
        assert stopped.wait(WAIT_S) == 0
        stack.broker()
        robots.go_on()
        assert second.accepted() > before


def shared(pair: tuple[Stack, Stack]) -> tuple[Process, list[Process]]:
    """Two brokers and two workers that both of them have; returns the first broker and these."""
    backs = ",".join(f"tcp://127.0.0.1:{stack.backend}" for stack in pair)
    first = pair[0].broker("timers.drain_ms=2000")
    pair[1].broker()
    workers = [pair[0].worker("echo", "policy.time_s=0.005", f"broker=[{backs}]") for _ in range(2)]
    for worker in workers:
        worker.wait_ready()
    for stack in pair:
        with stack.client() as client:
            eventually(lambda: ready(client) == len(workers), "both have both workers")
    return first, workers


def ready(client: ZmqPolicyClient) -> int:
    """How many workers are ready there."""
    states: dict[str, int] = client.ping()["policies"].get("echo", {})
    return states.get("ready", 0)


def test_workers_of_two_brokers_serve_whichever_has_requests(pair: tuple[Stack, Stack]) -> None:
    victim, workers = shared(pair)
    first, second = pair
    with load(first, second) as robots, load(second, first) as others:
        robots.go_on()
        others.go_on()
        # A worker dies, and both brokers go on with the other one.
        workers[0].kill()
        robots.go_on()
        others.go_on()
        # And so it is with a broker, whose credits come back to the other one.
        victim.kill()
        robots.go_on()
        others.go_on()
        first.broker()
        with first.client() as client:
            eventually(lambda: ready(client) == 1, "the worker is back at the first")
        eventually(lambda: first.accepted() > 0, "robots go back")
        robots.go_on()
        others.go_on()


def test_a_planned_restart_with_shared_workers_costs_no_answer(
    pair: tuple[Stack, Stack],
) -> None:
    stopped, workers = shared(pair)
    first, second = pair
    with load(first, second) as robots:
        robots.go_on()
        stopped.terminate()
        assert stopped.wait(WAIT_S) == 0
        first.broker()
        robots.go_on()
        assert second.accepted() > 0
    workers[0].terminate()
    assert workers[0].wait(WAIT_S) == 0


def test_a_worker_with_a_dead_a_foreign_and_a_duplicate_broker_serves_the_good_one(
    stack: Stack,
) -> None:
    stack.broker()
    good, foreign = f"tcp://127.0.0.1:{stack.backend}", f"tcp://127.0.0.1:{stack.frontend}"
    worker = stack.worker("echo", f"broker=[tcp://127.0.0.1:9,{foreign},{good},{good}]")
    worker.wait_ready()
    with stack.client() as client:
        assert client.infer({"tag": 1})["observation"] == {"tag": 1}
    worker.terminate()
    assert worker.wait(WAIT_S) == 0


def test_a_list_with_a_dead_a_foreign_and_a_duplicate_entry_works(stack: Stack) -> None:
    stack.broker()
    stack.worker("echo").wait_ready()
    good, foreign = f"127.0.0.1:{stack.frontend}", f"127.0.0.1:{stack.backend}"
    with ZmqPolicyClient(["127.0.0.1:9", foreign, good, good], timeout_s=WAIT_S) as client:
        for tag in range(3):
            assert client.infer({"tag": tag})["observation"] == {"tag": tag}


def test_a_broker_that_hangs_costs_a_part_of_the_deadline(stack: Stack, second: Stack) -> None:
    stopped = started(stack)
    with client_of(stack, second) as robot:
        for deadline_s in (4.0, 60.0):
            eventually(partial(reaches, robot, stack), "it is at the first")
            before = second.accepted()
            os.kill(stopped.pid, signal.SIGSTOP)
            try:
                began = time.monotonic()
                answer = robot.infer({"tag": 2}, deadline_s=deadline_s)
                spent_s = time.monotonic() - began
                assert answer["observation"] == {"tag": 2}
                assert spent_s < deadline_s
                assert second.accepted() == before + 1
                assert robot.infer({"tag": 3})["observation"] == {"tag": 3}
                assert second.accepted() == before + 2
            finally:
                os.kill(stopped.pid, signal.SIGCONT)
        eventually(partial(reaches, robot, stack), "it goes back to the first")


def reaches(robot: ZmqPolicyClient, stack: Stack) -> bool:
    """Whether this broker is the one that a robot's next request comes to."""
    before = stack.accepted()
    assert robot.infer({"tag": 1})["observation"] == {"tag": 1}
    return stack.accepted() == before + 1


def test_a_long_inference_is_waited_for_where_its_broker_answers(
    stack: Stack, second: Stack
) -> None:
    stack.broker()
    slow = stack.gate("echo")
    slow.wait_ready()
    others = second.accepted()
    with (
        client_of(stack, second) as robot,
        stack.client() as watcher,
        ThreadPoolExecutor(1) as thread,
    ):
        asked = thread.submit(robot.infer, {"tag": 1})
        eventually(lambda: stack.is_inside(slow), "it has begun")
        before = connections(watcher)
        eventually(lambda: connections(watcher) >= before + 2, "it has asked twice")
        stack.open_gate()
        assert asked.result()["tag"] == 1
        assert second.accepted() == others


def connections(client: ZmqPolicyClient) -> int:
    """How many a broker has accepted from robots so far."""
    count: int = client.status()["counters"]["frontend accepted"]
    return count


def test_a_long_upload_to_a_broker_that_answers_is_not_taken_for_hanging(
    stack: Stack, second: Stack
) -> None:
    started(stack)

    def accepted() -> np.ndarray[Any, Any]:
        return np.array([stack.accepted(), second.accepted()])

    with Network() as network:
        links = [network.link(each.frontend) for each in (stack, second)]
        hosts = [f"127.0.0.1:{link.port}" for link in links]
        with ZmqPolicyClient(hosts, timeout_s=WAIT_S, shared_memory=False) as robot:
            before = accepted()
            robot.infer({"tag": 1})
            first = accepted() - before  # which one has it is not the question
            for link in links:
                link.slow(0.1)
            began = time.monotonic()
            robot.infer({"picture": np.zeros(2_500_000, np.uint8)})
            assert time.monotonic() - began > 4.0  # in which it asks after 1 s and 3 s
            assert (accepted() - before == 2 * first).all()
