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
from scripts.local.processes import ProcessError, Processes, free_ports, signals_wait

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
from benchmarks.children import Children
from scripts.local.processes import Processes
os.register_at_fork(WHEN=lambda: os.kill(os.getpid(), signal.SIGINT))
if sys.argv[2] == "processes":
    context, arguments = Processes(Path(sys.argv[1])), ["{CHILD}", "deaf"]
else:
    context, arguments = Children(Path(sys.argv[1])), [[sys.executable, "-m", "{CHILD}", "deaf"]]
try:
    with context as children:
        children.start("child", *arguments)
        time.sleep(600)
except KeyboardInterrupt:
    print("interrupted")
"""


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
@pytest.mark.parametrize("kind", ["processes", "children"])
def test_ctrl_c_while_a_child_is_forked_is_not_lost(tmp_path: Path, when: str, kind: str) -> None:
    script = INTERRUPTED.replace("WHEN", when)
    command = [sys.executable, "-c", script, str(tmp_path), kind]
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


def test_cpu_time_grows_with_work(tmp_path: Path) -> None:
    with Processes(tmp_path) as children:
        child = children.start("child", CHILD)
        child.wait_ready()
        used = child.cpu_seconds()
        assert 0 < used == pytest.approx(psutil.Process(child.pid).cpu_times().user, abs=0.5)
        child.kill()
        with pytest.raises(ProcessError, match="no CPU clock"):
            child.cpu_seconds()


def test_free_ports_are_all_different() -> None:
    assert len(set(free_ports(50))) == 50
