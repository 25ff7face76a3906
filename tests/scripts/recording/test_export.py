"""`python -m scripts.record export`, from request logs to datasets and Rerun's files."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rerun.chunk import RrdReader

from scripts.record import main
from scripts.recording.episodes import Wanted, survey
from scripts.recording.exchange import Exchange
from scripts.recording.lerobot_export import frames_a_second, write_dataset
from scripts.recording.request_log import LogReader
from scripts.recording.rerun_file import write_rerun
from tests.scripts.recording.exchanges import (
    DIM,
    PERIOD_S,
    ROWS,
    START,
    failed,
    make_exchange,
    observe,
    picture,
    write_log,
)
from tests.scripts.recording.lerobot_reading import read

IMAGE, WRIST = "observation.images.image", "observation.images.wrist"
OTHER = "ff112233445566778899aabbccddeeff"


def export(log: Path, *words: Any) -> int:
    return main(["export", str(log), *map(str, words)])


def rows(path: Path) -> dict[str, int]:
    """Of each entity in a file of Rerun's, how many rows have a time."""
    found: dict[str, int] = {}
    for chunk in RrdReader(path).stream():
        if not chunk.is_static:
            found[chunk.entity_path] = found.get(chunk.entity_path, 0) + chunk.num_rows
    return found


def test_each_session_becomes_an_episode_with_a_frame_for_each_request(tmp_path: Path) -> None:
    exchanges = [
        make_exchange(number, session="ab"[number % 2], client=(OTHER if number % 2 else "00" * 16))
        for number in range(9)
    ]
    log = write_log(tmp_path / "a.requests", exchanges)
    assert export(log, "--lerobot", tmp_path / "data", "--robot-type", "toy") == 0
    found = read(tmp_path / "data")
    assert [episode["length"] for episode in found.episodes] == [5, 4]
    assert found.info["fps"] == round(1 / (2 * PERIOD_S))
    assert found.info["robot_type"] == "toy"
    assert found.tasks == ["fold the towel"]
    for frame, number in zip(found.frames, [0, 2, 4, 6, 8, 1, 3, 5, 7], strict=True):
        actions = 100.0 * number + np.arange(ROWS * DIM)
        assert frame["action"] == actions[:DIM].tolist()
        assert frame["chunk"] == actions.tolist()
        assert frame["observation.state"] == observe(number)["observation/state"].tolist()
        assert frame["recorded_at"] == pytest.approx(START + PERIOD_S * number, abs=1e-6)
        assert frame["elapsed_s"] == pytest.approx(PERIOD_S * (number - number % 2), abs=1e-5)
        for key, size in ((IMAGE, (24, 32)), (WRIST, (16, 16))):
            pixels = found.pictures[key][frame["index"]].astype(int)
            assert np.abs(pixels - picture(number, *size)).max() < 5


def test_without_a_state_all_vectors_make_it_up(tmp_path: Path) -> None:
    sent = {"joints": np.arange(2.0), "grip": np.array([9.0])}
    log = write_log(tmp_path / "a.requests", [make_exchange(0, observation=sent)])
    assert export(log, "--lerobot", tmp_path / "data") == 0
    found = read(tmp_path / "data")
    names = found.info["features"]["observation.state"]["names"]
    assert dict(zip(names, found.frames[0]["observation.state"], strict=True)) == {
        "grip.0": 9.0,
        "joints.0": 0.0,
        "joints.1": 1.0,
    }
    assert found.tasks == [""]  # prompts can be left out of a recording
    assert found.info["fps"] == frames_a_second(None) == 1


def test_what_no_frame_can_be_made_of_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = {**observe(3), "observation/image": b"\xff\xd8\xff and no more"}
    exchanges = [
        failed(0),
        make_exchange(1, observation=None, missing="in shared memory"),
        make_exchange(2, result={"value": 3}),
        make_exchange(3, observation=damaged),
        make_exchange(4),
    ]
    log = write_log(tmp_path / "a.requests", exchanges)
    assert export(log, "--lerobot", tmp_path / "data") == 0
    assert len(read(tmp_path / "data").frames) == 1
    told = " ".join(capsys.readouterr().err.split())
    for reason in ("error no_worker", "in shared memory", "without actions", "damaged image"):
        assert reason in told


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"observation": {**observe(2), "observation/image": picture(2, 48, 64)}}, "'image'"),
        ({"observation": {**observe(2), "extra": np.zeros(2)}}, "'extra'"),
        ({"result": {"actions": np.zeros((ROWS, DIM + 1))}}, "'actions'"),
    ],
    ids=["size", "key", "action dim"],
)
def test_requests_unlike_each_other_are_refused_or_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], key: str
) -> None:
    unlike = [make_exchange(2, session="b", **changed), make_exchange(3, session="b")]
    log = write_log(tmp_path / "a.requests", [make_exchange(0), make_exchange(1), *unlike])
    assert export(log, "--lerobot", tmp_path / "data") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert key in told
    assert "session 'b' of robot 'arm'" in told
    assert "--skip-unlike" in told
    assert list(tmp_path.iterdir()) == [log]
    assert export(log, "--lerobot", tmp_path / "data", "--skip-unlike") == 0
    assert len(read(tmp_path / "data").frames) == 2
    assert export(log, "--lerobot", tmp_path / "one", "--session", "a") == 0
    assert len(read(tmp_path / "one").frames) == 2


def test_a_log_that_was_cut_off_is_read_to_its_last_whole_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    log = write_log(tmp_path / "a.requests", [make_exchange(number) for number in range(3)])
    log.write_bytes(log.read_bytes()[:-100])
    assert export(log, "--lerobot", tmp_path / "data", "--rrd", tmp_path / "a.rrd") == 0
    assert "was cut off" in caplog.text
    assert len(read(tmp_path / "data").frames) == 2
    assert rows(tmp_path / "a.rrd")["/robots/arm/cameras/image"] == 2


def test_a_sessions_requests_may_lie_in_several_logs(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    for file in range(3):
        exchanges = [make_exchange(2 * file + number) for number in range(2)]
        write_log(folder / f"{file}.requests", exchanges)
    assert export(folder, "--lerobot", tmp_path / "data") == 0
    found = read(tmp_path / "data")
    assert [episode["length"] for episode in found.episodes] == [6]
    assert [frame["action"][0] for frame in found.frames] == [100.0 * n for n in range(6)]


def test_rerun_shows_all_that_a_robot_saw_and_was_told(tmp_path: Path) -> None:
    exchanges = [make_exchange(0), make_exchange(1), failed(2), make_exchange(3)]
    log = write_log(tmp_path / "a.requests", exchanges)
    # Chunks of 5 rows at 20 Hz last 0.25 s; requests come after 0.1, 0.2 and 0.3 s.
    assert export(log, "--rrd", tmp_path / "a.rrd", "--control-hz", 20) == 0
    found = rows(tmp_path / "a.rrd")
    robot = "/robots/arm"
    expected = {
        f"{robot}/cameras/image": 4,
        f"{robot}/cameras/wrist": 4,
        f"{robot}/state/state": 4,
        f"{robot}/chunk": 3,
        f"{robot}/actions/until_cut": 2 + 4 + 5,
        f"{robot}/actions/beyond_cut": 3 + 1,
        f"{robot}/rows_until_cut": 3,
        f"{robot}/latency_ms/total": 4,
        f"{robot}/latency_ms/infer_ms": 4,
        f"{robot}/errors": 1,
        f"{robot}/prompt": 1,
    }
    assert {path: found.get(path) for path in expected} == expected


def test_rerun_has_each_action_at_its_time(tmp_path: Path) -> None:
    log = write_log(tmp_path / "a.requests", [make_exchange(0), make_exchange(1)])
    assert export(log, "--rrd", tmp_path / "a.rrd", "--control-hz", 20) == 0
    times: list[int] = []
    for chunk in RrdReader(tmp_path / "a.rrd").stream():
        if chunk.entity_path == "/robots/arm/actions/until_cut" and not chunk.is_static:
            times += chunk.to_record_batch()["time"].cast("int64").to_pylist()
    expected = [START, START + 0.05, *(START + PERIOD_S + 0.05 * row for row in range(ROWS))]
    np.testing.assert_allclose(np.sort(times) / 1e9, expected, atol=1e-3)


def test_damaged_pictures_and_strange_names_do_not_stop_rerun(tmp_path: Path) -> None:
    damaged = {"top/camera 1": b"\xff\xd8\xff and no more", "a b": np.ones(2)}
    exchange = make_exchange(0, robot="arm 1/left", observation=damaged)
    log = write_log(tmp_path / "a.requests", [exchange, make_exchange(1, robot="")])
    assert export(log, "--rrd", tmp_path / "a.rrd") == 0
    found = rows(tmp_path / "a.rrd")
    assert sum("errors" in path for path in found) == 1
    assert any(path.startswith("/robots/00112233/") for path in found)


@pytest.mark.parametrize("kind", ["--rrd", "--lerobot"])
def test_nothing_is_said_and_nothing_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    log = write_log(tmp_path / "a.requests", [])
    assert export(log, kind, tmp_path / "out") == 1
    assert "no request" in capsys.readouterr().err
    log = write_log(tmp_path / "b.requests", [make_exchange(0)])
    assert export(log, kind, tmp_path / "out", "--robot", "leg") == 1
    assert "no request of robot 'leg'" in capsys.readouterr().err
    (tmp_path / "c.requests").write_text("hello")
    assert export(tmp_path / "c.requests", kind, tmp_path / "out") == 1
    assert "is no request log" in capsys.readouterr().err
    assert export(tmp_path / "missing", kind, tmp_path / "out") == 1
    assert "missing" in capsys.readouterr().err
    damaged = bytearray(log.read_bytes())
    damaged[200] ^= 1
    (tmp_path / "d.requests").write_bytes(damaged)
    assert export(tmp_path / "d.requests", kind, tmp_path / "out") == 1
    assert "damaged" in capsys.readouterr().err
    assert {path.suffix for path in tmp_path.iterdir()} == {".requests"}


def test_errors_alone_make_no_dataset(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_log(tmp_path / "a.requests", [failed(0), failed(1)])
    assert export(log, "--lerobot", tmp_path / "data") == 1
    assert "2 answered with the error no_worker" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["--rrd", "--lerobot"])
def test_what_is_there_is_not_replaced_by_accident(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    log = write_log(tmp_path / "a.requests", [make_exchange(0)])
    assert export(log, kind, tmp_path / "out") == 0
    assert export(log, kind, tmp_path / "out") == 2
    assert "--force" in capsys.readouterr().err
    assert export(log, kind, tmp_path / "out", "--force") == 0
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    assert export(log, kind, foreign, "--force") == 2


def test_neither_form_asked_for_is_a_wrong_command(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        export(tmp_path)
    assert end.value.code == 2


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    log = write_log(tmp_path / "a.requests", [make_exchange(number) for number in range(3)])

    def stop_at(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    def exchanges() -> Iterator[Exchange]:
        yield from LogReader(log)
        raise KeyboardInterrupt

    found = survey([log], Wanted(), progress=lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        write_dataset(found, tmp_path / "data", fps=1, progress=stop_at)
    with pytest.raises(KeyboardInterrupt):
        write_rerun(exchanges(), tmp_path / "a.rrd", control_hz=50)
    assert list(tmp_path.iterdir()) == [log]


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))
from scripts.record import main
sys.exit(main(sys.argv[1:]))
"""
WITHOUT = """
import sys
sys.modules["av"] = sys.modules["rerun"] = None
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *_: None if name in ("av", "rerun") else found(name)
from scripts.record import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("kind", ["--rrd", "--lerobot"])
@pytest.mark.parametrize(
    ("program", "code", "told"),
    [(LIMITED, 1, "large"), (WITHOUT, 2, "pip install 'zmq-policy-broker[recording]'")],
    ids=["full disk", "extra missing"],
)
def test_a_full_disk_and_a_missing_extra_are_said(
    tmp_path: Path, kind: str, program: str, code: int, told: str
) -> None:
    random = np.random.default_rng(0)
    sent = ({**observe(n), "top": random.integers(0, 256, (64, 64, 3), np.uint8)} for n in range(9))
    exchanges = [make_exchange(number, observation=each) for number, each in enumerate(sent)]
    log = write_log(tmp_path / "a.requests", exchanges)
    words = [sys.executable, "-c", program, "export", str(log), kind, str(tmp_path / "out")]
    run = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == code
    assert told in run.stderr
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == [log]
