"""The evaluation drives real servers, strikes them where a row says so, and can be interrupted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.tiny import servers
from scripts.tiny.evaluate import main, parse
from scripts.tiny.trial import CONDITIONS

LONGEST_S = 300.0
SHORT = 60
"""Control steps, of which the second of three requests is disturbed."""


@pytest.fixture
def short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What servers go through does not need whole episodes."""
    for name, condition in list(CONDITIONS.items()):
        monkeypatch.setitem(CONDITIONS, name, replace(condition, control_steps=SHORT))
    monkeypatch.setattr(servers, "FAULT_STEP", SHORT // 3)


def read(output: Path) -> list[dict[str, object]]:
    path = output / "episodes.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    ("row", "task", "lives"),
    [
        ("worker dies", "transfer", {"worker": 3, "broker": 1}),
        ("broker restarts", "insertion", {"worker": 1, "broker": 2}),
    ],
)
@pytest.mark.usefixtures("short_episodes")
def test_an_episode_survives(tmp_path: Path, row: str, task: str, lives: dict[str, int]) -> None:
    # Two episodes: the second needs what was killed in the first.
    arguments = ["--row", row, "--task", task, "--episodes", "2", "--output", str(tmp_path)]
    assert main(arguments) == 0
    episodes = [(episode["task"], episode["seed"]) for episode in read(tmp_path)]
    assert episodes == [(task, 1000), (task, 1001)]
    logs = tmp_path / "logs" / row.replace(" ", "-")
    for kind, least in lives.items():
        assert len(list(logs.glob(f"{kind}-*life-*.log"))) >= least
    (table_row,) = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert table_row["success"]["of"] == 2


def test_ctrl_c_keeps_what_was_run(tmp_path: Path) -> None:
    arguments = ["--task", "transfer", "--row", "50 actions", "--output", str(tmp_path)]
    arguments += ["--processes", "1"]
    command = [sys.executable, "-m", "scripts.tiny.evaluate", *arguments, "--episodes", "50"]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    give_up = time.monotonic() + LONGEST_S
    while not read(tmp_path) and child.poll() is None and time.monotonic() < give_up:
        time.sleep(0.05)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to all of the group
    _, complaints = child.communicate(timeout=LONGEST_S)
    assert (child.returncode, complaints) == (130, "")
    done = len(read(tmp_path))
    assert 1 <= done < 50
    assert main([*arguments, "--episodes", "1"]) == 0
    assert len(read(tmp_path)) == done


@pytest.mark.usefixtures("short_episodes")
def test_batches_are_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = "batches of 4"
    # Each robot is a process with a simulator of its own: two are enough to ask at once.
    monkeypatch.setitem(CONDITIONS, row, replace(CONDITIONS[row], batch=2))
    arguments = ["--task", "transfer", "--row", row, "--episodes", "6", "--output", str(tmp_path)]
    arguments += ["--processes", "1"]
    assert main(arguments) == 0
    (table_row,) = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert table_row["mean_batch"] > 1.0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--episodes", "0"], "0"),
        (["--broker", "8000"], "HOST:PORT"),
        (["--broker", "h:8000", "--row", "3 steps"], "row '3 steps' needs servers of its own"),
        (["--broker", "h:8000", "--checkpoint", "here"], "--checkpoint needs servers of its own"),
        (["--row", "4 steps"], "invalid choice"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        parse(arguments)
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def test_servers_of_others_get_the_rows_they_can_serve() -> None:
    rows = parse(["--broker", "robots.example:8000"]).row
    assert "25 actions" in rows
    assert "JPEG 90" in rows
    assert "3 steps" not in rows


def test_a_checkpoint_that_cannot_be_served_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    arguments = ["--row", "25 actions", "--checkpoint", str(tmp_path / "none")]
    assert main([*arguments, "--output", str(tmp_path)]) == 1
    assert "worker 1" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before
