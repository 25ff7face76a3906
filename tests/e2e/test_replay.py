"""Recorded requests asked again: equal over a worker's death, and what is said where not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from scripts.local.processes import Process, Processes, free_ports
from scripts.recording.request_log import LogWriter, files, read
from scripts.replay import address, main, parse
from scripts.simple_client.examples import make_example
from tests.e2e.stack import WAIT_S, Stack, eventually
from tests.e2e.test_record import Recorder
from tests.scripts.recording.test_request_log import make_exchange

EXAMPLE = make_example("aloha_sim")


class Recorded(NamedTuple):
    """A log of `aloha_sim`, of whose two workers one died with a request in hand; a broker."""

    stack: Stack
    folder: Path


def tiny(stack: Stack, name: str, steps: int = 2) -> Process:
    settings = ("env=aloha_sim", "model=tiny", "device=cpu", f"num_steps={steps}")
    return stack.worker(name, *settings, policy="pi0")


def kill_with_a_request(stack: Stack, worker: Process) -> None:
    """Kill -9 a worker that has a request in hand, which another one then answers."""
    watcher = stack.client(robot="watcher")

    def is_stuck() -> bool:
        rows = watcher.status()["workers"]
        return any(each["in_hand"] and each["heard_ms_ago"] > 300.0 for each in rows)

    os.kill(worker.pid, signal.SIGSTOP)
    # Two at once: there is one other worker, so one of them is given to this one.
    answers = [stack.infer(EXAMPLE, robot="arm") for _ in range(2)]
    eventually(is_stuck, "the worker has one")
    worker.kill()
    for answer in answers:
        assert answer.result(timeout=WAIT_S)["actions"] is not None
    assert watcher.status()["counters"]["moved"] == 1


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorded]:
    folder = tmp_path_factory.mktemp("replay")
    with Processes(folder / "logs") as processes:
        stack = Stack(processes, folder)
        tap = f"ipc://{folder / 'tap'}"
        stack.broker(f"tap={tap}", "timers.shortest_lease_ms=60000").wait_ready()
        workers = [tiny(stack, "aloha_sim"), tiny(stack, "aloha_sim")]
        for each in workers:
            each.wait_ready()
        recorder = Recorder(folder / "out", tap, "--robot", "arm")
        try:
            robot = stack.client(robot="arm")
            recorder.wait_ready()
            eventually(lambda: robot.infer(EXAMPLE) and recorder.bytes() > 1e5, "it is recorded")
            kill_with_a_request(stack, workers[0])
            robot.infer(EXAMPLE, seed=7)
            size = recorder.bytes()
            eventually(lambda: robot.infer(EXAMPLE) and recorder.bytes() > size, "all is recorded")
            code, said = recorder.end(signal.SIGINT)
        finally:
            recorder.close()
        assert code == 0, said
        yield Recorded(stack, recorder.folder)
        stack.close()


Replay = Callable[..., tuple[int, str, str]]


@pytest.fixture
def replay(
    recorded: Recorded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Replay:
    """Replays with flags, or another `file`; returns the exit code and what was printed."""
    monkeypatch.setenv("COLUMNS", "200")

    def run(*flags: str, file: Path = recorded.folder) -> tuple[int, str, str]:
        code = main([str(file), f"127.0.0.1:{recorded.stack.frontend}", *flags])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_answers_are_equal_bit_for_bit_over_a_workers_death(
    recorded: Recorded, replay: Replay
) -> None:
    kept = [each for each in read(recorded.folder) if each.observation is not None]
    assert len({each.client for each in kept}) >= 2  # one of which asked when a worker died
    chunks = {each.result["actions"].tobytes() for each in kept if each.result is not None}
    assert len(chunks) == len(kept)  # the seed counts: the observation is the same each time
    broker = f"127.0.0.1:{recorded.stack.frontend}"
    command = [sys.executable, "-m", "scripts.replay", str(recorded.folder), broker]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    output = done.stdout
    assert done.returncode == 0, output + done.stderr
    assert f"  {len(kept)} equal bit for bit" in output
    assert f"{kept[0].request_id} equal" in output


def test_another_model_differs_and_it_is_said_by_how_much(
    recorded: Recorded, replay: Replay
) -> None:
    tiny(recorded.stack, "coarse", steps=1).wait_ready()
    code, output, _ = replay("--policy", "coarse")
    assert code == 1
    assert "actions differs by up to " in output
    code, output, errors = replay("--policy", "coarse", "--json")
    assert code == 1
    summary = json.loads(output)
    largest = summary["largest"]["actions"]
    assert summary["equal"] == 0 < largest < 10
    assert "differs" in errors
    assert replay("--policy", "coarse", "--tolerance", f"{largest * 1.01}")[0] == 0
    assert replay("--policy", "coarse", "--tolerance", f"{largest * 0.99}")[0] == 1


def test_a_policy_that_now_refuses_is_a_difference(recorded: Recorded, replay: Replay) -> None:
    code, output, _ = replay("--policy", "unserved", "--timeout-s", "20")
    assert code == 1
    assert "fails now: UnknownPolicy" in output


def test_files_that_cannot_be_replayed(recorded: Recorded, replay: Replay, tmp_path: Path) -> None:
    (original,) = files(recorded.folder)
    data = bytearray(original.read_bytes())
    data[len(data) // 2] ^= 1
    damaged = tmp_path / "damaged.requests"
    damaged.write_bytes(data)
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"PAR1" * 100)
    for file, words in (
        (damaged, "is damaged near its byte"),
        (foreign, "is no request log"),
        (tmp_path / "missing", "No such file"),
    ):
        code, output, errors = replay(file=file)
        assert (code, output) == (2, "")
        assert words in errors


def test_a_log_that_was_cut_off_is_replayed_to_its_last_whole_record(
    recorded: Recorded, replay: Replay, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (original,) = files(recorded.folder)
    cut = tmp_path / "cut.requests"
    cut.write_bytes(original.read_bytes()[:-1000])
    code, output, _ = replay(file=cut)
    assert code == 0
    assert f"{len(list(read(cut)))} requests:" in output
    assert "no whole record and are left out" in caplog.text


def test_what_has_nothing_to_compare_is_bad_input(
    recorded: Recorded, replay: Replay, tmp_path: Path
) -> None:
    path = tmp_path / "a.requests"
    with LogWriter(path, {}) as log:
        log.write(make_exchange(1, result=None, error=("no_worker", "start one")))
        log.write(make_exchange(2, observation=None, missing="it lay in shared memory"))
        log.write(make_exchange(3, missing="left out: prompts"))
    code, output, _ = replay(file=path)
    assert code == 2
    assert "it was answered with no_worker" in output
    assert "left out: it lay in shared memory" in output
    assert "2 left out: not all of the observation was recorded" in output
    assert "There was nothing to compare." in output


def test_no_broker_there(recorded: Recorded) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "scripts.replay", str(recorded.folder), f"127.0.0.1:{port}"]
    done = subprocess.run(
        [*command, "--timeout-s", "0.5"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 3
    assert "no broker answers at" in done.stderr


def test_the_brokers_address_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert address("[::1]:8000") == ("[::1]", 8000)
    for wrong in ("localhost", "localhost:", ":8000", "localhost:0", "localhost:x"):
        with pytest.raises(SystemExit) as ended:
            parse(["file", wrong])
        assert ended.value.code == 2
        assert "is not HOST:PORT" in capsys.readouterr().err
