"""Two brokers that back each other up: killed, restarted, and workers of both that die."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from client import ZmqPolicyClient
from scripts.local.link import Network
from scripts.local.processes import Process, Processes
from tests.e2e.stack import WAIT_S, Stack, eventually

_ROBOTS = 6


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Stack, Stack]]:
    """The ports of two brokers, with nothing started yet."""
    with Processes(tmp_path / "logs") as processes:
        stacks = Stack(processes, tmp_path), Stack(processes, tmp_path)
        yield stacks
        stacks[0].open_gate()
        for stack in stacks:
            stack.close()


def client_of(*stacks: Stack) -> ZmqPolicyClient:
    """A robot that knows these brokers, in this order."""
    hosts = [f"127.0.0.1:{stack.frontend}" for stack in stacks]
    return ZmqPolicyClient(hosts, timeout_s=WAIT_S, connect_timeout_s=WAIT_S)


class Load:
    """Robots that ask without a pause; an error of any of them is kept."""

    def __init__(self, *stacks: Stack) -> None:
        self.answers = [0] * _ROBOTS
        self.errors: list[BaseException] = []
        self._is_over = threading.Event()
        self._clients = [client_of(*stacks) for _ in range(_ROBOTS)]
        self._threads = [
            threading.Thread(target=self._ask, args=(number,)) for number in range(_ROBOTS)
        ]
        for thread in self._threads:
            thread.start()

    def _ask(self, robot: int) -> None:
        count = 0
        try:
            while not self._is_over.is_set():
                count += 1
                tag = f"{robot}/{count}"
                assert self._clients[robot].infer({"tag": tag})["observation"] == {"tag": tag}
                self.answers[robot] += 1
        except BaseException as error:  # noqa: BLE001 (the test raises it)
            self.errors.append(error)

    def go_on(self) -> None:
        """Return once each robot has had ten more answers."""
        wanted = [count + 10 for count in self.answers]
        eventually(
            lambda: self.errors or all(a >= b for a, b in zip(self.answers, wanted, strict=True)),
            "every robot is answered again",
        )
        if self.errors:
            raise self.errors[0]

    def end(self) -> None:
        """Stop asking."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        for client in self._clients:
            client.close()


@contextmanager
def load(*stacks: Stack) -> Iterator[Load]:
    """Robots under way for as long as this lasts."""
    robots = Load(*stacks)
    try:
        yield robots
    finally:
        robots.end()


def accepted(stack: Stack) -> int:
    """Requests that a broker has taken so far."""
    with stack.client() as client:
        count: int = client.status()["counters"].get("accepted", 0)
    return count


def started(pair: tuple[Stack, Stack]) -> Process:
    """Two brokers, each with a worker of its own that is ready; returns the first broker."""
    first = pair[0].broker("timers.drain_ms=2000")
    pair[1].broker()
    for worker in [stack.worker("echo", "policy.time_s=0.005") for stack in pair]:
        worker.wait_ready()
    return first


def test_a_broker_killed_with_another_standing_by_costs_no_answer(
    pair: tuple[Stack, Stack],
) -> None:
    victim = started(pair)
    first, second = pair
    with load(first, second) as robots:
        robots.go_on()
        eventually(lambda: accepted(first) > 0, "the first one is preferred")
        before = accepted(second)  # on a busy machine, the first one may have been slow to connect
        victim.kill()
        robots.go_on()
        assert accepted(second) > before
        # And back again when the first one is there, each in its own time.
        first.broker()
        eventually(lambda: accepted(first) > 0, "robots go back")
        robots.go_on()


def test_a_planned_restart_costs_no_answer(pair: tuple[Stack, Stack]) -> None:
    stopped = started(pair)
    first, second = pair
    with load(first, second) as robots:
        robots.go_on()
        stopped.terminate()
        assert stopped.wait(WAIT_S) == 0
        first.broker()
        robots.go_on()
        assert accepted(second) > 0


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
        eventually(lambda: accepted(first) > 0, "robots go back")
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
        assert accepted(second) > 0
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


@pytest.mark.parametrize("deadline_s", [4.0, 60.0])
def test_a_broker_that_hangs_costs_a_part_of_the_deadline(
    pair: tuple[Stack, Stack], deadline_s: float
) -> None:
    stopped = started(pair)
    first, second = pair
    with client_of(first, second) as robot:
        assert robot.infer({"tag": 1})["observation"] == {"tag": 1}
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            answer = robot.infer({"tag": 2}, deadline_s=deadline_s)
            spent_s = time.monotonic() - began
            assert answer["observation"] == {"tag": 2}
            assert spent_s < deadline_s
            assert accepted(second) == 1
            assert robot.infer({"tag": 3})["observation"] == {"tag": 3}
            assert accepted(second) == 2
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
        eventually(
            lambda: robot.infer({"tag": 4}) and accepted(first) > 2, "it goes back to the first"
        )


def test_a_long_inference_is_waited_for_where_its_broker_answers(
    pair: tuple[Stack, Stack],
) -> None:
    first, second = pair
    for stack in pair:
        stack.broker()
    slow = first.gate("echo")
    for worker in (slow, second.worker("echo")):
        worker.wait_ready()
    with (
        client_of(first, second) as robot,
        first.client() as watcher,
        ThreadPoolExecutor(1) as thread,
    ):
        asked = thread.submit(robot.infer, {"tag": 1})
        eventually(lambda: first.is_inside(slow), "it has begun")
        before = connections(watcher)
        eventually(lambda: connections(watcher) >= before + 2, "it has asked twice")
        first.open_gate()
        assert asked.result()["tag"] == 1
        assert accepted(second) == 0


def connections(client: ZmqPolicyClient) -> int:
    """How many a broker has accepted from robots so far."""
    count: int = client.status()["counters"]["frontend accepted"]
    return count


def test_a_long_upload_to_a_broker_that_answers_is_not_taken_for_hanging(
    pair: tuple[Stack, Stack],
) -> None:
    started(pair)
    with Network() as network:
        links = [network.link(stack.frontend) for stack in pair]
        hosts = [f"127.0.0.1:{link.port}" for link in links]
        with ZmqPolicyClient(hosts, timeout_s=WAIT_S, shared_memory=False) as robot:
            robot.infer({"tag": 1})
            before = [accepted(stack) for stack in pair]  # which one has it is not the question
            for link in links:
                link.slow(0.1)
            began = time.monotonic()
            robot.infer({"picture": np.zeros(2_500_000, np.uint8)})
            assert time.monotonic() - began > 4.0  # in which it asks after 1 s and 3 s
            assert [accepted(stack) for stack in pair] == [2 * count for count in before]
