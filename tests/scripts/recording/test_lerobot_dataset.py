"""A dataset is read back by the rules of LeRobot's loader, and by Rerun's."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rerun.experimental import LeRobotReader

from scripts.recording import lerobot_dataset
from scripts.recording.lerobot_dataset import DatasetWriter
from scripts.recording.lerobot_info import Feature
from scripts.recording.lerobot_statistics import Colours, Together, of_rows
from scripts.recording.taken import Taken
from tests.scripts.recording.exchanges import picture
from tests.scripts.recording.lerobot_reading import read

TOP = "observation.images.top"
CAMERAS = {TOP: (24, 32)}
FEATURES = {"observation.state": Feature(4), "action": Feature(3), "one": Feature(1, "int64")}
LENGTHS = (3, 4, 1, 6)
FPS = 7


def values(episode: int, frame: int) -> dict[str, Any]:
    return {
        "observation.state": np.arange(4) + 0.5 * frame,
        "action": np.full(3, 100 * episode + frame),
        "one": [episode],
    }


def write(folder: Path, lengths: tuple[int, ...] = LENGTHS, **options: Any) -> None:
    with DatasetWriter(folder, FPS, CAMERAS, FEATURES, robot_type="arm", **options) as dataset:
        for episode, length in enumerate(lengths):
            for frame in range(length):
                pixels = {TOP: picture(dataset.frames)}
                dataset.add_frame(pixels, values(episode, frame), ("fold", "")[episode % 2])
            dataset.end_episode()


def test_all_is_as_it_was_written(tmp_path: Path) -> None:
    write(tmp_path / "data")
    found = read(tmp_path / "data")
    assert found.info["robot_type"] == "arm"
    assert found.info["fps"] == FPS
    assert [episode["length"] for episode in found.episodes] == list(LENGTHS)
    assert found.tasks == ["fold", ""]
    assert [episode["tasks"] for episode in found.episodes] == [["fold"], [""]] * 2
    actions = [values(e, f)["action"].tolist() for e, n in enumerate(LENGTHS) for f in range(n)]
    assert [frame["action"] for frame in found.frames] == actions
    for number, pixels in enumerate(found.pictures[TOP]):
        assert np.abs(pixels.astype(int) - picture(number)).max() < 5
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


def test_episodes_go_on_in_new_files_once_one_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lerobot_dataset, "_MB", 0)
    monkeypatch.setattr(lerobot_dataset, "FILES_A_CHUNK", 3)
    write(tmp_path / "data")
    found = read(tmp_path / "data")
    for kind in ("data", f"videos/{TOP}"):
        places = [(e[f"{kind}/chunk_index"], e[f"{kind}/file_index"]) for e in found.episodes]
        assert places == [(0, 0), (0, 1), (0, 2), (1, 0)]


def test_rerun_opens_it_with_every_picture(tmp_path: Path) -> None:
    write(tmp_path / "data")
    reader = LeRobotReader(tmp_path / "data")
    assert list(reader.episodes()) == list(range(len(LENGTHS)))
    for episode, length in enumerate(LENGTHS):
        pictures = 0
        for chunk in reader.stream(episode):
            if TOP in chunk.entity_path and "frame_index" in chunk.timeline_names:
                names = chunk.to_record_batch().schema.names
                pictures += chunk.num_rows * any("sample" in name for name in names)
        assert pictures == length


def test_a_dataset_without_cameras_has_no_videos(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "data", FPS, {}, {"action": Feature(2)}) as dataset:
        dataset.add_frame({}, {"action": np.ones(2)}, "")
    assert read(tmp_path / "data").info["video_path"] is None
    assert not (tmp_path / "data" / "videos").exists()


def test_statistics_of_all_episodes_are_those_of_all_rows() -> None:
    random = np.random.default_rng(0)
    parts = [random.normal(number, 1 + number, (5 * number + 1, 2)) for number in range(4)]
    together, rows = Together(), np.concatenate(parts)
    for part in parts:
        together.add(of_rows(part))
    told = together.told()
    assert told["count"] == [len(rows)]
    for name, expected in (("mean", rows.mean(0)), ("std", rows.std(0)), ("max", rows.max(0))):
        np.testing.assert_allclose(told[name], expected)


def test_statistics_of_colours_are_exact() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (6, 9, 11, 3), dtype=np.uint8)
    colours = Colours()
    for each in pixels:
        colours.add(each)
    told, shares = colours.told(), pixels.reshape(-1, 3) / 255.0
    for name, expected in (
        ("min", shares.min(0)),
        ("max", shares.max(0)),
        ("mean", shares.mean(0)),
        ("std", shares.std(0)),
        ("q10", np.quantile(shares, 0.1, axis=0, method="inverted_cdf")),
    ):
        np.testing.assert_allclose(np.ravel(told[name]), expected)
    assert told["count"] == [6]


@pytest.mark.parametrize(
    ("pictures", "changes", "message"),
    [
        ({}, {}, "observation.images.top is missing"),
        ({TOP: picture(0, 12, 32)}, {}, r"top has the shape \(12, 32, 3\), all others have \(24"),
        ({TOP: picture(0), "other": picture(0)}, {}, "other is none of the dataset's"),
        ({TOP: picture(0)}, {"action": np.ones(2)}, r"action has the shape \(2,\)"),
    ],
)
def test_a_frame_unlike_the_others_is_refused(
    tmp_path: Path, pictures: Any, changes: Any, message: str
) -> None:
    with (
        pytest.raises(ValueError, match=message),
        DatasetWriter(tmp_path / "data", FPS, CAMERAS, FEATURES) as dataset,
    ):
        dataset.add_frame(pictures, {**values(0, 0), **changes}, "")
    assert list(tmp_path.iterdir()) == []


def test_without_an_episode_there_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs an episode"):
        write(tmp_path / "data", ())
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_replaced_only_if_asked_and_only_a_dataset(tmp_path: Path) -> None:
    write(tmp_path / "data", (1,))
    with pytest.raises(Taken, match="exists"):
        write(tmp_path / "data", (2,))
    assert len(read(tmp_path / "data").frames) == 1
    write(tmp_path / "data", (2,), force=True)
    assert len(read(tmp_path / "data").frames) == 2
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(Taken, match="no LeRobot dataset"):
        write(other, force=True)
    assert other.exists()


def test_what_is_there_stays_where_the_new_one_fails(tmp_path: Path) -> None:
    write(tmp_path / "data", (1,))
    with pytest.raises(ValueError, match="needs an episode"):
        write(tmp_path / "data", (), force=True)
    assert len(read(tmp_path / "data").frames) == 1


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    try:
        with pytest.raises(OSError, match="large"):
            write(tmp_path / "data", (30,))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []
