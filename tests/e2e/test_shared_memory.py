"""Robots and workers of one host that share memory, through a real broker, and what kills leave."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from client import ZmqPolicyClient
from client.errors import BadObservation, MessageTooLarge
from client.shared_memory import host_token
from scripts.local.forks import die_with
from scripts.local.processes import Process, Processes
from tests.e2e.stack import WAIT_S, Stack, eventually

PICTURE = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
NOBODY = "65534"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may do what it takes")


class Robot:
    """`tests.e2e.memory_robot` as a process."""

    def __init__(self, stack: Stack, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        self.log = stack.folder / f"robot-{os.urandom(4).hex()}"
        module = ["-m", "tests.e2e.memory_robot", str(stack.frontend), "staged", *arguments]
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [*prefix, sys.executable, *module],
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with(os.getpid()),
            )
        self.pid = self._process.pid

    def lines(self) -> list[str]:
        """What it has said so far; of every answer whether it was right and came by memory.

        That it waits for a broker, which may take long to start, is left out.
        """
        said = self.log.read_text().splitlines()
        return [line for line in said if not line.startswith("still waiting: ")]

    def comes_to_share(self) -> None:
        """Return when its requests go through memory."""
        eventually(lambda: "1 1" in self.lines(), "memory is in use")

    def survives_errors(self, answers: int) -> None:
        """Return when it has had more answers than so many."""
        eventually(lambda: len(self.lines()) > answers, "it is answered")

    def kill(self) -> None:
        """As kill -9."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def robots() -> Iterator[list[Robot]]:
    robots: list[Robot] = []
    yield robots
    for robot in robots:
        robot.kill()


def memories(pid: int) -> list[str]:
    """The robots' memories that a process has mapped, by their inodes; one for each mapping."""
    lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line.split()[4] for line in lines if "memfd:observations" in line]


def mapped(pid: int) -> int:
    """How often a process has a robot's memory mapped."""
    return len(memories(pid))


def has_named_memory(pid: int) -> bool:
    """Whether a process uses memory that has a name, and so may be left behind."""
    return "/dev/shm/" in Path(f"/proc/{pid}/maps").read_text()


def holders(inodes: set[str]) -> list[str]:
    """Processes that hold one of these memories; this machine may have other robots."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if inodes & set(memories(int(entry.name))):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
    return found


def two_mirrors(stack: Stack) -> tuple[Process, Process]:
    stack.broker()
    workers = stack.staged("Mirror"), stack.staged("Mirror")
    for worker in workers:
        worker.wait_ready()
    return workers


class Mirrors(NamedTuple):
    """A broker and two workers that answer with what they saw."""

    stack: Stack
    workers: tuple[Process, Process]

    def mappings(self) -> int:
        """How often the workers have a robot's memory mapped."""
        return sum(mapped(worker.pid) for worker in self.workers)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrors]:
    folder = tmp_path_factory.mktemp("mirrors")
    with Processes(folder / "logs") as processes:
        stack = Stack(processes, folder)
        workers = two_mirrors(stack)
        yield Mirrors(stack, workers)
        stack.close()
        assert all(worker.is_alive() for worker in workers)


@pytest.fixture
def mirrors(running: Mirrors) -> Iterator[Mirrors]:
    """One for all tests that harm nobody; at first the workers have no robot's memory mapped."""
    eventually(lambda: not running.mappings(), "what earlier robots shared is let go")
    yield running
    running.stack.hang_up()


def sharing(stack: Stack) -> ZmqPolicyClient:
    """A client whose next observation goes through memory."""
    client = stack.client()
    client.infer({"image": PICTURE})
    assert client.uses_shared_memory
    return client


def test_memory_is_used_from_the_second_observation_on(mirrors: Mirrors) -> None:
    client = mirrors.stack.client()
    assert not client.uses_shared_memory
    for turn in range(20):
        image = np.roll(PICTURE, turn, axis=0)
        seen = client.infer({"image": image, "state": np.arange(5.0), "turn": turn})["seen"]
        np.testing.assert_array_equal(seen["image"], image)
        assert (seen["turn"], seen["state"].tolist()) == (turn, [0.0, 1.0, 2.0, 3.0, 4.0])
        assert client.uses_shared_memory
    assert mirrors.mappings() >= 1


def test_a_robot_that_does_not_want_to_share(mirrors: Mirrors) -> None:
    client = mirrors.stack.client(shared_memory=False)
    for _ in range(3):
        client.infer({"image": PICTURE})
    assert not client.uses_shared_memory
    assert mirrors.mappings() == 0


def test_threads_of_one_client_have_memory_of_their_own(mirrors: Mirrors) -> None:
    client = sharing(mirrors.stack)

    def ask(turn: int) -> bool:
        image = np.full((224, 224, 3), turn, np.uint8)
        return bool((client.infer({"image": image})["seen"]["image"] == turn).all())

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(200)))


def test_a_worker_killed_with_a_request_in_memory(stack: Stack) -> None:
    stack.broker()
    workers = stack.gate(), stack.gate()
    for worker in workers:
        worker.wait_ready()
    stack.open_gate()
    client = stack.client()
    client.infer({"tag": PICTURE})
    assert client.uses_shared_memory
    stack.close_gate()
    with ThreadPoolExecutor(1) as thread:
        answer = thread.submit(client.infer, {"tag": PICTURE[::-1]})
        eventually(lambda: any(map(stack.is_inside, workers)), "a worker got the request")
        (victim,) = (worker for worker in workers if stack.is_inside(worker))
        victim.kill()
        stack.open_gate()
        result = answer.result(WAIT_S)
    np.testing.assert_array_equal(result["tag"], PICTURE[::-1])
    assert result["worker"] != victim.pid
    assert client.uses_shared_memory


def test_a_broker_killed_between_requests_in_memory(stack: Stack) -> None:
    broker = stack.broker()
    stack.staged("Mirror").wait_ready()
    client = sharing(stack)
    for _ in range(2):
        broker.kill()
        broker = stack.broker()
        np.testing.assert_array_equal(client.infer({"image": PICTURE})["seen"]["image"], PICTURE)
        assert client.uses_shared_memory


def test_a_killed_robot_leaves_no_memory_behind(mirrors: Mirrors, robots: list[Robot]) -> None:
    robots += [Robot(mirrors.stack) for _ in range(3)]
    for robot in robots:
        robot.comes_to_share()
    for robot in robots:
        robot.kill()
    eventually(lambda: not mirrors.mappings(), "all is let go")


def test_everybody_killed_under_load_leaves_nothing_and_loses_nothing(
    stack: Stack, robots: list[Robot]
) -> None:
    broker = stack.broker()
    workers = [stack.staged("Mirror"), stack.staged("Mirror")]
    for worker in workers:
        worker.wait_ready()
    robots += [Robot(stack) for _ in range(3)]
    for turn in range(2):
        asked = [len(robot.lines()) for robot in robots]
        workers[turn].kill()
        workers[turn] = stack.staged("Mirror")
        workers[turn].wait_ready()
        broker.kill()
        broker = stack.broker()
        robots[0].kill()
        assert all(line in ("1 0", "1 1") for line in robots[0].lines()[:-1])
        robots.pop(0)
        asked.pop(0)
        robots.append(Robot(stack))
        for robot, before in zip(robots, asked, strict=False):
            robot.survives_errors(before + 20)
    shared: set[str] = set()
    for robot in robots:
        robot.comes_to_share()
        shared.update(memories(robot.pid))
    # Memory without a name ends with those that hold it; this machine's other programs have named.
    pids = [robot.pid for robot in robots] + [process.pid for process in (broker, *workers)]
    assert not any(map(has_named_memory, pids))
    for robot in robots:
        robot.kill()
        assert set(robot.lines()[:-1]) <= {"1 0", "1 1"}
    for process in (broker, *workers):
        process.kill()
    assert shared
    eventually(lambda: not holders(shared), "no process holds a robot's memory")


@needs_root
def test_a_robot_of_another_user_sends_bytes(mirrors: Mirrors, robots: list[Robot]) -> None:
    robots.append(Robot(mirrors.stack, NOBODY))
    robots[0].survives_errors(10)
    assert set(robots[0].lines()[:10]) == {"1 0"}
    assert mirrors.mappings() == 0


@needs_root
def test_a_robot_in_another_container_sends_bytes(mirrors: Mirrors, robots: list[Robot]) -> None:
    robots.append(Robot(mirrors.stack, prefix=("unshare", "--pid", "--fork", "--kill-child")))
    robots[0].survives_errors(10)
    assert set(robots[0].lines()[:10]) == {"1 0"}
    assert mirrors.mappings() == 0


@needs_root
def test_a_robot_that_wrongly_believes_to_be_near_gets_its_answers_all_the_same(
    mirrors: Mirrors, robots: list[Robot]
) -> None:
    """As in a copied virtual machine: the tokens are alike, and the memory is not to be found."""
    prefix = ("unshare", "--pid", "--fork", "--kill-child")
    robots.append(Robot(mirrors.stack, host_token().hex(), prefix=prefix))
    robots[0].survives_errors(50)
    lines = robots[0].lines()[:50]
    assert lines[0] == "1 1"  # it believes so after its first answer
    assert lines[1] == "1 0"  # and was told otherwise, without its robot hearing of it
    assert set(lines) == {"1 0", "1 1"}
    assert lines.count("1 0") > 40


def test_the_brokers_limit_holds_in_memory_too(stack: Stack) -> None:
    stack.broker("limits.max_bytes=400000")
    stack.staged("Mirror").wait_ready()
    client = sharing(stack)
    with pytest.raises(MessageTooLarge):
        client.infer({"image": np.zeros((480, 640, 3), np.uint8)})
    client.infer({"image": PICTURE})
    assert client.uses_shared_memory


@pytest.mark.parametrize("shared_memory", [True, False])
def test_compressed_images_of_both_kinds(mirrors: Mirrors, shared_memory: bool) -> None:
    client = mirrors.stack.client(image_codec="png", shared_memory=shared_memory)
    planes = PICTURE.transpose(2, 0, 1)
    for _ in range(3):
        seen = client.infer({"anything": planes, "image": PICTURE, "prompt": "go"})["seen"]
        np.testing.assert_array_equal(seen["anything"], planes)
        np.testing.assert_array_equal(seen["image"], PICTURE)
        assert seen["prompt"] == "go"


def test_a_damaged_image_is_named_and_the_next_one_is_served(mirrors: Mirrors) -> None:
    client = mirrors.stack.client()
    with pytest.raises(BadObservation, match="images/chw: expected a JPEG, PNG or WebP image"):
        client.infer({"images": {"chw": b"damaged"}})
    assert client.infer({"prompt": "go"})["seen"] == {"prompt": "go"}
