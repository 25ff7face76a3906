"""Demonstrations are written as a LeRobot dataset that says the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.tiny.collect import main
from scripts.tiny.episodes import Demonstration
from scripts.tiny.expert import STEPS
from scripts.tiny.lerobot import CAMERA, HORIZON
from tests.scripts.recording.lerobot_reading import read


def save(folder: Path, number: int, frames: int) -> Demonstration:
    """A demonstration of so many frames; none: it failed."""
    random = np.random.default_rng(number)
    shown = Demonstration(
        np.sort(random.choice(STEPS + 20, frames, replace=False)),
        np.repeat(random.integers(0, 256, (frames, 1, 1, 3)), 224, 1).repeat(224, 2).astype("u1"),
        random.random((frames, 14), np.float32),
        random.random((frames, 1, 3), np.float32),
        random.random((STEPS, 14), np.float32),
    )
    folder.mkdir(exist_ok=True)
    shown.save(folder / f"{number:06d}.npz")
    return shown


def words(folder: Path, *more: str) -> list[str]:
    data = ["--output", str(folder), "--processes", "1", "--lerobot", str(folder / "lerobot")]
    return [*data, "--episodes", "2", "--task", "transfer", *more]


def test_a_dataset_has_the_frames_of_all_that_succeeded(tmp_path: Path) -> None:
    shown = [save(tmp_path / "transfer", 0, 3), save(tmp_path / "transfer", 1, 0)]
    shown += [save(tmp_path / "insertion", number, 2) for number in range(2)]
    assert main(words(tmp_path, "--task", "insertion")) == 0
    found = read(tmp_path / "lerobot")
    assert [episode["length"] for episode in found.episodes] == [3, 2, 2]
    assert found.tasks == ["Transfer cube", "Insert peg"]
    steps = [int(step) for each in shown for step in each.steps]
    assert [frame["step"] for frame in found.frames] == steps
    plans = [each.plan for each in shown for _ in each.steps]
    images = [image for each in shown for image in each.images]
    for frame, plan, image in zip(found.frames, plans, images, strict=True):
        last = STEPS - 1
        expected = [plan[min(frame["step"] + row, last)] for row in range(HORIZON)]
        np.testing.assert_array_equal(frame["chunk"], np.ravel(expected))
        np.testing.assert_array_equal(frame["action"], expected[0])
        pixels = found.pictures[CAMERA][frame["index"]]
        assert np.abs(pixels.astype(int) - image).max() < 10
    np.testing.assert_array_equal(found.frames[0]["observation.state"], shown[0].states[0])


def test_the_same_command_writes_it_again(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "transfer", number, 1)
    for _ in range(2):
        assert main(words(tmp_path)) == 0
        assert len(read(tmp_path / "lerobot").frames) == 2


def test_where_none_succeeded_there_is_no_dataset(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        save(tmp_path / "transfer", number, 0)
    assert main(words(tmp_path)) == 1
    assert "needs an episode" in capsys.readouterr().err
    assert not (tmp_path / "lerobot").exists()


def test_what_is_in_the_way_is_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lerobot").mkdir()
    with pytest.raises(SystemExit):
        main(words(tmp_path))
    assert "no LeRobot dataset" in capsys.readouterr().err
    assert not (tmp_path / "transfer").exists()
