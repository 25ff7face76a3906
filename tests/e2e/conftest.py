"""Stacks of processes: one that all harmless tests share, and one each for those that kill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from scripts.local.processes import Processes
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
