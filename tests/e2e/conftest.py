"""Stacks of processes: one that all harmless tests share, and one each for those that kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.local.processes import Process, Processes
from tests.e2e.stack import Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack of the test's own, with nothing started yet."""
    with Processes(tmp_path / "logs") as processes:
        stack = Stack(processes, tmp_path)
        yield stack
        stack.open_gate()
        stack.close()


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A broker with the workers `echo`, `zeros` and `faulty`, which tests must leave unharmed."""
    folder = tmp_path_factory.mktemp("shared")
    with Processes(folder) as processes:
        stack = Stack(processes, folder)
        stack.broker()
        workers = [
            stack.worker("echo"),
            stack.worker("zeros", policy="noop"),
            stack.staged("Faulty", "faulty"),
        ]
        for worker in workers:
            worker.wait_ready()
        yield stack
        stack.close()
        assert all(worker.is_alive() for worker in workers)


@pytest.fixture(autouse=True)
def hang_up(request: pytest.FixtureRequest) -> Iterator[None]:
    """No robot of a shared stack outlives its test: a process may have only so many sockets."""
    yield
    for name in {"shared", "tapped"}.intersection(request.fixturenames):
        owner = request.getfixturevalue(name)
        (owner if isinstance(owner, Stack) else owner.stack).hang_up()


class TapSite(NamedTuple):
    """A broker with a tap and a worker `echo`."""

    stack: Stack
    broker: Process
    tap: str


@pytest.fixture(scope="session")
def tapped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TapSite]:
    """One for all tests, which must leave it unharmed. It keeps 6 MB for each listener."""
    folder = tmp_path_factory.mktemp("tapped")
    with Processes(folder / "logs") as processes:
        stack = Stack(processes, folder)
        tap = f"ipc://{folder / 'tap'}"
        limits = ("limits.max_bytes=1000000", "limits.max_tap_bytes=6000000")
        broker = stack.broker(f"tap={tap}", *limits)
        worker = stack.worker("echo")
        broker.wait_ready()
        worker.wait_ready()
        yield TapSite(stack, broker, tap)
        stack.close()
        assert broker.is_alive()
        assert worker.is_alive()
