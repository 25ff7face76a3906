"""Children answer line by line, stay on their cores, and their end is told."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.children import Child, Children
from scripts.local.processes import ProcessError

ECHO = """
import sys
for line in sys.stdin:
    print(line, end="", flush=True)
"""
THREADS = """
import sys, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
print("{}", flush=True)
sys.stdin.read()
"""
DYING = "import sys; sys.stdin.readline(); sys.exit('out of patience')"
WAIT_S = 60.0


def started(children: Children, source: str) -> Child:
    return children.start("a child", [sys.executable, "-c", source])


def test_it_answers_and_its_cost_is_known(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = started(children, ECHO)
        child.tell({"number": 1})
        assert child.answer(WAIT_S) == {"number": 1}
        cost = child.cpu_s()
        child.tell({"number": 2})
        child.answer(WAIT_S)
        assert child.cpu_s() > cost > 0.0
        assert 1.0 < child.resident_mb() < 1000.0
        child.check()
    assert not psutil.pid_exists(child.pid)


def test_all_its_threads_are_placed(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with Children(tmp_path) as children:
        child = started(children, THREADS)
        child.answer(WAIT_S)
        child.place({core})
        threads = psutil.Process(child.pid).threads()
        assert len(threads) == 2
        assert all(os.sched_getaffinity(thread.id) == {core} for thread in threads)


def test_its_last_words_are_told(tmp_path: Path) -> None:
    with Children(tmp_path) as children:
        child = started(children, DYING)
        child.tell({})
        with pytest.raises(ProcessError, match=r"(?s)a child: exit code 1.*out of patience"):
            child.answer(WAIT_S)
        for ask in (child.check, child.cpu_s, lambda: child.tell({"x": "y" * 100_000})):
            with pytest.raises(ProcessError, match="out of patience"):
                ask()


def test_silence_is_no_answer(tmp_path: Path) -> None:
    with Children(tmp_path) as children, pytest.raises(ProcessError, match="silent"):
        started(children, ECHO).answer(0.01)


def test_an_exception_ends_them(tmp_path: Path) -> None:
    begun: list[Child] = []

    def interrupted() -> None:
        with Children(tmp_path) as children:
            begun.append(started(children, ECHO))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not psutil.pid_exists(begun[0].pid)
