"""Recording what passes a real broker, and what goes wrong while it does."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

from client import ZmqPolicyClient
from client.errors import PolicyError
from client.wire import encode_header
from scripts.local.forks import die_with
from scripts.local.processes import free_ports
from scripts.recording.request_log import LogReader, files, read
from tests.e2e.conftest import TapSite
from tests.e2e.stack import WAIT_S, Stack, eventually

PICTURE = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)


class Recorder:
    """`python -m scripts.record` as a process."""

    def __init__(
        self, folder: Path, tap: str, *flags: str, before: Callable[[], None] | None = None
    ):
        self.folder = folder
        command = [sys.executable, "-m", "scripts.record", str(folder), "--tap", tap, *flags]
        dies = die_with(os.getpid())

        def prepare() -> None:
            dies()
            if before is not None:
                before()

        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=prepare
        )

    def wait_ready(self) -> None:
        """Return when it has connected."""
        assert self.process.stderr is not None
        assert "recording into" in self.process.stderr.readline()

    def end(self, number: int | None = None) -> tuple[int, str]:
        """Its exit code and what it said, after a signal if one is given."""
        if number is not None:
            self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, output + errors

    def bytes(self) -> int:
        """In its logs so far."""
        return sum(path.stat().st_size for path in self.folder.glob("*.requests"))

    def hears(self, robot: ZmqPolicyClient) -> None:
        """Return when it records what this robot asks."""
        before = self.bytes()
        eventually(
            lambda: robot.infer({"x": 0}) and self.bytes() > max(before, 500),
            "the recorder hears",
        )

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def record() -> Iterator[Callable[..., Recorder]]:
    with ExitStack() as started:

        def start(*given: Any, **options: Any) -> Recorder:
            recorder = Recorder(*given, **options)
            started.callback(recorder.close)
            return recorder

        yield start


def test_what_robots_ask_is_kept(
    tapped: TapSite, tmp_path: Path, record: Callable[..., Recorder]
) -> None:
    recorder = record(tmp_path / "out", tapped.tap)
    robot = tapped.stack.client(robot="arm", session="a", shared_memory=False)
    recorder.hears(robot)
    answers = [robot.infer({"picture": PICTURE + turn, "prompt": "fold"}) for turn in range(3)]
    with pytest.raises(PolicyError):
        tapped.stack.client(robot="hasty").infer({"x": 0}, deadline_s=1e-9)
    eventually(lambda: recorder.bytes() > 3 * PICTURE.nbytes, "all are written")
    code, said = recorder.end(signal.SIGINT)
    assert code == 0, said
    assert "requests recorded, 0 messages dropped" in said
    kept = [each for each in read(recorder.folder) if "picture" in (each.observation or {})]
    for turn, (exchange, answer) in enumerate(zip(kept, answers, strict=True)):
        assert exchange.observation is not None
        assert exchange.result is not None
        assert np.array_equal(exchange.observation["picture"], PICTURE + turn)
        assert np.array_equal(exchange.result["actions"], answer["actions"])
        assert (exchange.robot, exchange.session, exchange.policy) == ("arm", "a", "echo")
        assert exchange.client[:8] == robot.id
        assert exchange.answered_at >= exchange.at
        assert exchange.timing["infer_ms"] == answer["server_timing"]["infer_ms"]
    reader = LogReader(files(recorder.folder)[-1])
    assert len(list(reader)) > 3
    assert (reader.end, reader.dropped) == ("it received SIGINT", 0)


def test_what_lies_in_shared_memory_is_kept_or_said_to_be_missing(
    tapped: TapSite, tmp_path: Path, record: Callable[..., Recorder]
) -> None:
    recorder = record(tmp_path / "out", tapped.tap)
    robot = tapped.stack.client(robot="arm")
    recorder.hears(robot)
    turns = 30
    for turn in range(turns):
        robot.infer({"picture": PICTURE + turn, "turn": turn})
    assert robot.uses_shared_memory
    code, said = recorder.end(signal.SIGTERM)
    assert code == 0, said
    kept = [each for each in read(recorder.folder) if "picture" in (each.observation or {})]
    missing = [each.missing for each in read(recorder.folder) if each.observation is None]
    for each in kept:
        assert each.observation is not None
        assert np.array_equal(each.observation["picture"], PICTURE + each.observation["turn"])
    assert kept
    assert all("written to since" in each for each in missing)


def test_filters_and_what_is_left_out(
    tapped: TapSite, tmp_path: Path, record: Callable[..., Recorder]
) -> None:
    one = record(tmp_path / "one", tapped.tap, "--robot", "b", "--without-prompts")
    two = record(tmp_path / "two", tapped.tap, "--session", "s", "--without-images")
    none = record(tmp_path / "none", tapped.tap, "--policy", "other")
    robots = [
        tapped.stack.client(robot=name, session=session, shared_memory=False)
        for name, session in (("a", "s"), ("b", "t"))
    ]
    one.hears(robots[1])
    two.hears(robots[0])
    for robot in robots:
        robot.infer({"picture": PICTURE, "jpeg": b"\xff\xd8", "prompt": "fold", "deep": ["x", 1]})
    eventually(lambda: one.bytes() > PICTURE.nbytes, "it is written")
    for recorder in (one, two, none):
        assert recorder.end(signal.SIGINT)[0] == 0
    kept = list(read(one.folder))
    assert {each.robot for each in kept} == {"b"}
    observation = kept[-1].observation
    assert observation is not None
    assert set(observation) == {"picture", "jpeg", "deep"}
    assert observation["deep"] == [1]
    assert "left out: prompts" in kept[-1].missing
    kept = list(read(two.folder))
    assert {(each.robot, each.session) for each in kept} == {("a", "s")}
    assert set(kept[-1].observation or {}) == {"prompt", "deep"}
    assert kept[-1].missing == "left out: images"
    assert kept[0].missing == ""  # it had none
    assert list(read(none.folder)) == []


def test_a_killed_recorder_leaves_what_it_wrote_and_harms_nobody(
    tapped: TapSite, tmp_path: Path, record: Callable[..., Recorder]
) -> None:
    recorder = record(tmp_path / "out", tapped.tap)
    robot = tapped.stack.client(robot="arm", shared_memory=False)
    recorder.hears(robot)
    robot.infer({"picture": PICTURE})
    eventually(lambda: _pictures(recorder.folder), "it is written")
    robot.infer({"picture": PICTURE})  # which may be half written
    recorder.end(signal.SIGKILL)
    assert robot.infer({"x": 1})["actions"] is not None
    assert _pictures(recorder.folder) in (1, 2)
    reader = LogReader(files(recorder.folder)[0])
    assert list(reader)
    assert reader.end is None


def test_a_full_disk_ends_the_recording_and_nothing_else(
    tapped: TapSite, tmp_path: Path, record: Callable[..., Recorder]
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    recorder = record(tmp_path / "out", tapped.tap, before=limit)
    robot = tapped.stack.client(robot="arm", shared_memory=False)
    recorder.hears(robot)
    for _ in range(5):
        robot.infer({"picture": PICTURE})
    code, said = recorder.end()
    assert code == 1, said
    assert "the recording ended" in said
    assert "no room to write" in said
    assert _pictures(recorder.folder) == 1
    assert robot.infer({"x": 1})["actions"] is not None


def test_a_limit_ends_it_or_removes_the_oldest(
    tapped: TapSite, tmp_path: Path, record: Callable[..., Recorder]
) -> None:
    ends = record(tmp_path / "ends", tapped.tap, "--max-gb", "0.002")
    turns = record(tmp_path / "turns", tapped.tap, "--max-gb", "0.002", "--rotate")
    robot = tapped.stack.client(robot="arm", shared_memory=False)
    ends.hears(robot)
    turns.hears(robot)
    for turn in range(30):
        robot.infer({"picture": PICTURE, "turn": turn})
        # The tap keeps six messages here, and drops what comes while a recorder has no turn.
        eventually(partial(_has, turns.folder, turn), "it is written")
    code, said = ends.end()
    assert code == 1, said
    assert "--rotate removes the oldest" in said

    assert turns.end(signal.SIGINT)[0] == 0
    for recorder in (ends, turns):
        assert 1e6 < recorder.bytes() <= 2.2e6
    assert 0 not in _turns(turns.folder)
    assert max(_turns(ends.folder)) < 29


def test_no_tap_there(tapped: TapSite, tmp_path: Path, record: Callable[..., Recorder]) -> None:
    (port,) = free_ports(1)
    waits = ("--connect-timeout-s", "0.5")
    code, said = record(tmp_path / "a", f"tcp://127.0.0.1:{port}", *waits).end()
    assert code == 2
    assert f"start the broker with tap=tcp://127.0.0.1:{port}" in said
    assert not (tmp_path / "a").exists()
    code, said = record(tmp_path / "a", f"tcp://127.0.0.1:{tapped.stack.frontend}", *waits).end()
    assert code == 2
    assert "is it the broker's frontend" in said
    code, said = record(tmp_path / "a", "nowhere", *waits).end()
    assert code == 2
    assert "is no address of a tap" in said


def test_a_folder_that_cannot_be_written(
    tapped: TapSite, tmp_path: Path, record: Callable[..., Recorder]
) -> None:
    (tmp_path / "file").touch()
    code, said = record(tmp_path / "file", tapped.tap).end()
    assert code == 2
    assert "nothing can be recorded" in said


def test_a_recorder_that_is_stopped_loses_messages_and_says_how_many(
    tapped: TapSite, tmp_path: Path, record: Callable[..., Recorder]
) -> None:
    recorder = record(tmp_path / "out", tapped.tap)
    robot = tapped.stack.client(robot="arm", shared_memory=False)
    recorder.hears(robot)
    recorder.process.send_signal(signal.SIGSTOP)
    for _ in range(40):
        robot.infer({"picture": np.zeros(900_000, np.uint8)})
    recorder.process.send_signal(signal.SIGCONT)
    written = recorder.bytes()
    eventually(lambda: robot.infer({"x": 1}) and recorder.bytes() > written, "it goes on")
    eventually(lambda: _dropped(recorder.folder) > 0 or not robot.infer({"x": 1}), "it notices")
    code, said = recorder.end(signal.SIGINT)
    assert code == 0, said
    assert " 0 messages dropped" not in said
    dropped = _dropped(recorder.folder)
    assert f" {dropped} messages dropped" in said


def test_it_goes_on_when_the_broker_comes_back_and_ends_by_itself(
    stack: Stack, record: Callable[..., Recorder]
) -> None:
    tap = f"ipc://{stack.folder / 'tap'}"
    broker = stack.broker(f"tap={tap}")
    broker.wait_ready()
    stack.worker("echo").wait_ready()
    recorder = record(stack.folder / "out", tap, "--requests", "30")
    robot = stack.client(robot="arm")
    recorder.hears(robot)
    broker.kill()
    stack.broker(f"tap={tap}").wait_ready()
    recorder.hears(robot)
    eventually(lambda: robot.infer({"x": 0}) and recorder.process.poll() is not None, "it ends")
    code, said = recorder.end()
    assert code == 0, said
    assert "30 requests recorded, 0 messages dropped" in said
    assert len(list(read(recorder.folder))) == 30


def test_what_no_log_can_hold_is_said_to_be_missing(
    tapped: TapSite, tmp_path: Path, record: Callable[..., Recorder]
) -> None:
    recorder = record(tmp_path / "out", tapped.tap, "--without-prompts")
    robot = tapped.stack.client(robot="arm")
    recorder.hears(robot)
    deep = b"\x81\xa1x" + b"\x91" * 900 + b"\xc0"  # {"x": [[[...None...]]]}
    with zmq.Context() as context, context.socket(zmq.REQ) as stranger:
        stranger.linger = 0
        stranger.connect(f"tcp://127.0.0.1:{tapped.stack.frontend}")
        for body in (deep, b"\x93garbage", b"\x81\xa1x\xd6\xff\x00\x00\x00\x01"):
            stranger.send_multipart(
                [encode_header({"v": 1, "kind": "infer", "robot": "odd"}), body]
            )
            assert stranger.poll(int(WAIT_S * 1e3))
            stranger.recv_multipart()
    recorder.hears(robot)
    code, said = recorder.end(signal.SIGINT)
    assert code == 0, said
    first, second, third = [each for each in read(recorder.folder) if each.robot == "odd"]
    assert "nested more than" in first.missing
    assert "cannot be decoded" in second.missing
    assert third.observation is not None
    assert third.client  # though it gave no id


def _pictures(folder: Path) -> int:
    """How many observations have one."""
    return sum("picture" in (each.observation or {}) for each in read(folder))


def _turns(folder: Path) -> set[int]:
    """Of all observations that have one."""
    return {(each.observation or {}).get("turn", -1) for each in read(folder)}


def _has(folder: Path, turn: int) -> bool:
    return turn in _turns(folder)


def _dropped(folder: Path) -> int:
    reader = LogReader(files(folder)[-1])
    for _ in reader:
        pass
    return reader.dropped
