"""`python -m broker` as a shell, a service manager or a person without patience meets it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from scripts.local.forks import die_with
from scripts.local.processes import free_ports

WAIT_S = 60.0  # only ever used up where something is wrong
HANG_UP = signal.SIGHUP


def until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.02)


class Running:
    """A broker that is up, and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log
        self.wait_for("ready: robots at")

    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, words: str) -> None:
        until(lambda: words in self.log() or self.process.poll() is not None, self.log())
        assert words in self.log()

    def end(self) -> str:
        """Wait for the end that was asked for; returns the log."""
        assert self.process.wait(WAIT_S) == 0, self.log()
        return self.log()


@contextmanager
def broker(
    folder: Path,
    *,
    ignored: Sequence[signal.Signals] = (),
    terminal: int | None = None,
) -> Iterator[Running]:
    """Start one, with these signals ignored or as the leader of this terminal's session."""
    front, back = free_ports(2)
    die = die_with(os.getpid())

    def prepare() -> None:
        die()
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)
        if terminal is not None:
            os.close(os.open(os.ttyname(terminal), os.O_RDWR))  # a leader's first is its own

    log = folder / "broker.log"
    command = [sys.executable, "-m", "broker"]
    command += [f"frontend=tcp://127.0.0.1:{front}", f"backend=tcp://127.0.0.1:{back}"]
    with (
        open(log, "wb") as file,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
            preexec_fn=prepare,
        ) as process,
    ):
        try:
            yield Running(process, log)
        finally:
            process.kill()


def run(*command: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [sys.executable, *command], capture_output=True, text=True, timeout=WAIT_S, **options
    )


def test_a_bug_that_ends_it_is_logged_as_other_lines_are() -> None:
    front, back = free_ports(2)
    program = (
        "import runpy, sys; from broker.shell import Shell\n"
        "def run(self): raise KeyError('planted')\n"
        "Shell.run = run\n"
        "runpy.run_module('broker', run_name='__main__', alter_sys=True)"
    )
    settings = [f"frontend=tcp://127.0.0.1:{front}", f"backend=tcp://127.0.0.1:{back}"]
    done = run("-c", program, *settings, "log_format=json")
    assert done.returncode == 1
    last = json.loads(done.stderr.splitlines()[-1])
    assert (last["level"], last["message"]) == ("error", "stopped by a bug: please report it")
    assert "KeyError: 'planted'" in last["traceback"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_why_it_stops_is_logged(tmp_path: Path, number: signal.Signals) -> None:
    with broker(tmp_path) as running:
        running.process.send_signal(number)
        assert f"stopping: received {number.name}" in running.end()


def test_what_was_ignored_from_the_start_stays_ignored(tmp_path: Path) -> None:
    with broker(tmp_path, ignored=[signal.SIGHUP, signal.SIGINT]) as running:
        running.process.send_signal(signal.SIGHUP)
        running.process.send_signal(signal.SIGINT)
        running.process.send_signal(signal.SIGTERM)  # is handled after them
        log = running.end()
    assert "stopping: received SIGTERM" in log
    assert "keys" not in log


def test_without_a_terminal_a_hang_up_reads_the_keys_again(tmp_path: Path) -> None:
    with broker(tmp_path) as running:
        running.process.send_signal(HANG_UP)
        running.wait_for("there are no keys to read again")
        running.process.terminate()
        running.end()


def test_a_terminal_that_is_closed_ends_it(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with broker(tmp_path, terminal=theirs) as running:
        os.close(theirs)
        running.process.send_signal(HANG_UP)  # of a person: the terminal is still there
        running.wait_for("there are no keys to read again")
        os.close(ours)  # which has the kernel send the signal
        assert "stopping: received SIGHUP, and the terminal was closed" in running.end()


def test_a_terminal_that_is_closed_ends_it_though_its_log_went_there() -> None:
    ours, theirs = pty.openpty()
    front, back = free_ports(2)
    die = die_with(os.getpid())

    def prepare() -> None:
        die()
        os.close(os.open(os.ttyname(theirs), os.O_RDWR))

    command = [sys.executable, "-m", "broker"]
    command += [f"frontend=tcp://127.0.0.1:{front}", f"backend=tcp://127.0.0.1:{back}"]
    with subprocess.Popen(
        command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=prepare,
    ) as process:
        os.close(theirs)
        said = b""
        while b"ready: robots at" not in said:
            said += os.read(ours, 4096)
        os.close(ours)
        try:
            assert process.wait(WAIT_S) == 0
        finally:
            process.kill()


def test_a_terminal_that_is_closed_does_not_end_it_under_nohup(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with broker(tmp_path, terminal=theirs, ignored=[HANG_UP]) as running:
        os.close(theirs)
        os.close(ours)
        running.process.terminate()
        assert "stopping: received SIGTERM" in running.end()


def test_a_signal_while_it_starts_is_told_as_well() -> None:
    # It says what it imports: zmq is what follows the first handlers.
    command = [sys.executable, "-X", "importtime", "-m", "broker"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while "zmq." not in said:
            said = process.stderr.readline()
            assert said, "it ended before"
        process.terminate()
        assert "stopped: received SIGTERM while starting" in process.stderr.read()
    assert process.returncode == 0


def test_an_address_that_cannot_be_bound_ends_it_with_one_line_and_3() -> None:
    front, back = free_ports(2)
    settings = [f"frontend=tcp://203.0.113.7:{front}", f"backend=tcp://127.0.0.1:{back}"]
    done = run("-m", "broker", *settings, "insecure=true")
    assert done.returncode == 3
    assert f"cannot bind frontend=tcp://203.0.113.7:{front}: this machine has no" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("missing", ["hydra", "omegaconf"])
def test_without_its_extra_it_says_which_one_to_install(missing: str) -> None:
    program = (
        f"import runpy, sys; sys.modules[{missing!r}] = None; sys.argv = ['broker'];"
        "runpy.run_module('broker', run_name='__main__', alter_sys=True)"
    )
    done = run("-c", program)
    assert done.returncode == 2
    assert "pip install 'zmq-policy-broker[broker]'" in done.stderr
    assert missing in done.stderr
    assert len(done.stderr.splitlines()) == 1
