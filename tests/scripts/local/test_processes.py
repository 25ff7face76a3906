"""Children are started, watched, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from scripts.local import processes
from scripts.local.forks import signals_wait
from scripts.local.processes import Process, ProcessError, Processes, free_ports

CHILD = "tests.scripts.local.child"

# A parent that starts one child, says its pid, and would never stop it by itself.
PARENT = f"""
import sys, time
from pathlib import Path
from scripts.local.processes import Processes
child = Processes(Path(sys.argv[1])).start("child", "{CHILD}", "deaf")
child.wait_ready()
print(child.pid, flush=True)
time.sleep(600)
"""


# A parent to which Ctrl-C comes while it forks; it would never stop by itself.
INTERRUPTED = f"""
import os, signal, sys, time
from pathlib import Path
from scripts.local.processes import Processes
os.register_at_fork(WHEN=lambda: os.kill(os.getpid(), signal.SIGINT))
try:
    with Processes(Path(sys.argv[1])) as children:
        children.start("child", "{CHILD}", "deaf")
        time.sleep(600)
except KeyboardInterrupt:
    print("interrupted")
"""

# Children that talk.
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


def ends(pid: int, timeout_s: float = 30.0) -> bool:
    """Whether the process is gone, or dead and not yet buried, within `timeout_s`."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        process.wait(timeout_s)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    return True


def test_leaving_the_context_stops_what_was_started(tmp_path: Path) -> None:
    with Processes(tmp_path) as children:
        child = children.start("a child", CHILD)
        child.wait_ready()
        assert child.is_alive()
    assert not child.is_alive()
    assert child.wait(0) == -15  # SIGTERM was enough
    assert (tmp_path / "a-child.log").read_text() == "child ready\n"


def test_an_exception_stops_what_was_started(tmp_path: Path) -> None:
    started = []

    def interrupted() -> None:
        with Processes(tmp_path) as children:
            started.append(children.start("child", CHILD))
            started[0].wait_ready()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not started[0].is_alive()


def test_a_deaf_child_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_TIMEOUT_S", 0.1)
    with Processes(tmp_path) as children:
        child = children.start("child", CHILD, "deaf")
        child.wait_ready()
    assert child.wait(0) == -9


def test_a_child_that_ends_early_is_quoted(tmp_path: Path) -> None:
    with Processes(tmp_path) as children:
        child = children.start("worker 1", CHILD, "crash")
        with pytest.raises(ProcessError, match=r"worker 1 ended: exit code 1(.|\n)*try model=tiny"):
            child.wait_ready()


def test_a_child_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    with Processes(tmp_path) as children:
        child = children.start("worker 1", "http.server", "0", "--bind", "127.0.0.1")
        with pytest.raises(ProcessError, match="worker 1 was not ready after 0 s"):
            child.wait_ready(timeout_s=0.2)


def test_kill_is_sigkill(tmp_path: Path) -> None:
    with Processes(tmp_path) as children:
        child = children.start("child", CHILD, "deaf")
        child.wait_ready()
        assert child.kill() == -9


def test_children_die_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert psutil.pid_exists(child)
        parent.kill()
    assert ends(child)


@pytest.mark.parametrize("when", ["before", "after_in_parent"])
def test_ctrl_c_while_a_child_is_forked_is_not_lost(tmp_path: Path, when: str) -> None:
    script = INTERRUPTED.replace("WHEN", when)
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_signals_that_waited_are_handled_and_handlers_are_as_before() -> None:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    survived = []

    def interrupted() -> None:
        with signals_wait():
            os.kill(os.getpid(), signal.SIGINT)
            survived.append(True)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert survived
    assert handlers == {number: signal.getsignal(number) for number in handlers}


def talking(children: Processes, source: str) -> Process:
    return children.start_command("a child", [sys.executable, "-c", source], talks=True)


def test_it_answers_and_its_cost_is_known(tmp_path: Path) -> None:
    with Processes(tmp_path) as children:
        child = talking(children, ECHO)
        child.tell({"number": 1})
        assert child.answer(WAIT_S) == {"number": 1}
        cost = child.cpu_seconds()
        assert 0 < cost == pytest.approx(psutil.Process(child.pid).cpu_times().user, abs=0.5)
        child.tell({"number": 2})
        child.answer(WAIT_S)
        assert child.cpu_seconds() > cost
        assert 1.0 < child.resident_mb() < 1000.0
        child.check()
    assert not psutil.pid_exists(child.pid)


def test_all_its_threads_are_placed(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    with Processes(tmp_path) as children:
        child = talking(children, THREADS)
        child.answer(WAIT_S)
        child.place({core})
        threads = psutil.Process(child.pid).threads()
        assert len(threads) == 2
        assert all(os.sched_getaffinity(thread.id) == {core} for thread in threads)


def test_its_last_words_are_told(tmp_path: Path) -> None:
    with Processes(tmp_path) as children:
        child = talking(children, DYING)
        child.tell({})
        with pytest.raises(ProcessError, match=r"(?s)a child ended: exit code 1.*out of patience"):
            child.answer(WAIT_S)
        for ask in (
            child.check,
            child.cpu_seconds,
            child.resident_mb,
            lambda: child.tell({"x": "y" * 100_000}),
        ):
            with pytest.raises(ProcessError, match="out of patience"):
                ask()


def test_silence_is_no_answer(tmp_path: Path) -> None:
    with Processes(tmp_path) as children, pytest.raises(ProcessError, match="silent"):
        talking(children, ECHO).answer(0.01)


def test_who_was_not_started_to_talk_is_not_talked_to(tmp_path: Path) -> None:
    with Processes(tmp_path) as children:
        child = children.start("child", CHILD)
        for talk in (lambda: child.tell({}), lambda: child.answer(WAIT_S)):
            with pytest.raises(RuntimeError, match="without talks=True"):
                talk()


def test_free_ports_are_all_different() -> None:
    assert len(set(free_ports(50))) == 50
