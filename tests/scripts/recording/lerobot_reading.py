"""Reads a LeRobot dataset as LeRobot does, and checks all that its loader relies on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow
import pyarrow.parquet as parquet
from numpy.typing import NDArray

TOLERANCE_S = 1e-4  # LeRobot's, between a frame's time and its picture's
QUANTILES = ("q01", "q10", "q50", "q90", "q99")
STATISTICS = {"min", "max", "mean", "std", "count", *QUANTILES}
INDEX_FEATURES = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


@dataclass(frozen=True)
class Dataset:
    info: dict[str, Any]
    stats: dict[str, Any]
    tasks: list[str]
    episodes: list[dict[str, Any]]
    frames: list[dict[str, Any]]
    pictures: dict[str, list[NDArray[np.uint8]]]
    """Of each camera, as its video has them, frame by frame."""


def read(folder: Path) -> Dataset:
    """All of a dataset; fails where LeRobot's loader would, or would read something else."""
    info = json.loads((folder / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert info["features"].keys() >= INDEX_FEATURES.keys()
    for key, dtype in INDEX_FEATURES.items():
        assert info["features"][key] == {"dtype": dtype, "shape": [1], "names": None}
    assert not any("/" in key for key in info["features"])
    tasks = _tasks(folder)
    episodes = _rows(folder / "meta/episodes")
    frames = _frames(folder, info)
    stats = json.loads((folder / "meta/stats.json").read_text())
    assert info["total_episodes"] == len(episodes)
    assert info["total_frames"] == len(frames)
    assert info["total_tasks"] == len(tasks)
    assert info["splits"] == {"train": f"0:{len(episodes)}"}
    _check_indices(info, tasks, episodes, frames, folder)
    _check_stats(info, stats, len(frames))
    for episode in episodes:
        told: dict[str, dict[str, Any]] = {}
        for name, value in episode.items():
            if name.startswith("stats/"):
                _, key, statistic = name.split("/")
                told.setdefault(key, {})[statistic] = value
        _check_stats(info, told, episode["length"])
    return Dataset(info, stats, tasks, episodes, frames, _pictures(folder, info, episodes, frames))


def _rows(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("*/*.parquet"))
    assert paths
    return [row for path in paths for row in parquet.read_table(path).to_pylist()]


def _tasks(folder: Path) -> list[str]:
    table = parquet.read_table(folder / "meta/tasks.parquet")
    # LeRobot looks a prompt up in the index of pandas' table.
    assert json.loads(table.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    assert table.schema.field("task_index").type == pyarrow.int64()
    assert table["task_index"].to_pylist() == list(range(table.num_rows))
    found: list[str] = table["task"].to_pylist()
    assert len(set(found)) == len(found)
    return found


def _frames(folder: Path, info: Mapping[str, Any]) -> list[dict[str, Any]]:
    columns = {}
    for key, feature in info["features"].items():
        if feature["dtype"] == "video":
            continue
        kind = getattr(pyarrow, feature["dtype"])()
        (size,) = feature["shape"]
        columns[key] = kind if size == 1 else pyarrow.list_(kind, size)
        assert feature["names"] is None or len(feature["names"]) == size
    for path in sorted((folder / "data").glob("*/*.parquet")):
        schema = parquet.read_schema(path)
        assert {field.name: field.type for field in schema} == columns
        assert parquet.ParquetFile(path).num_row_groups >= 1
    return _rows(folder / "data")


def _check_indices(
    info: Mapping[str, Any],
    tasks: list[str],
    episodes: list[dict[str, Any]],
    frames: list[dict[str, Any]],
    folder: Path,
) -> None:
    assert [episode["episode_index"] for episode in episodes] == list(range(len(episodes)))
    assert [frame["index"] for frame in frames] == list(range(len(frames)))
    end = 0
    for number, episode in enumerate(episodes):
        assert episode["dataset_from_index"] == end
        end = episode["dataset_to_index"]
        mine = frames[episode["dataset_from_index"] : end]
        assert len(mine) == episode["length"] > 0
        assert {frame["episode_index"] for frame in mine} == {number}
        assert [frame["frame_index"] for frame in mine] == list(range(len(mine)))
        times = np.array([frame["timestamp"] for frame in mine])
        assert np.abs(times - np.arange(len(mine)) / info["fps"]).max() <= TOLERANCE_S
        assert {tasks[frame["task_index"]] for frame in mine} == set(episode["tasks"])
        path = info["data_path"].format(
            chunk_index=episode["data/chunk_index"], file_index=episode["data/file_index"]
        )
        there = parquet.read_table(folder / path, columns=["episode_index"])
        assert number in there["episode_index"].to_pylist()
        assert episode["meta/episodes/chunk_index"] == episode["meta/episodes/file_index"] == 0
    assert end == len(frames)


def _check_stats(info: Mapping[str, Any], stats: Mapping[str, Any], count: int) -> None:
    assert stats.keys() == info["features"].keys()
    for key, feature in info["features"].items():
        shape = (3, 1, 1) if feature["dtype"] == "video" else tuple(feature["shape"])
        assert stats[key].keys() == STATISTICS
        assert stats[key]["count"] == [count]
        for name in STATISTICS - {"count"}:
            assert np.shape(stats[key][name]) == shape
        order = np.array([stats[key][name] for name in ("min", *QUANTILES, "max")])
        assert (np.diff(order, axis=0) >= 0).all()
        if feature["dtype"] == "video":
            assert order.min() >= 0.0
            assert order.max() <= 1.0


def _pictures(
    folder: Path,
    info: Mapping[str, Any],
    episodes: list[dict[str, Any]],
    frames: list[dict[str, Any]],
) -> dict[str, list[NDArray[np.uint8]]]:
    found: dict[str, list[NDArray[np.uint8]]] = {}
    for key, feature in info["features"].items():
        if feature["dtype"] != "video":
            continue
        assert feature["names"] == ["height", "width", "channels"]
        videos: dict[Path, list[tuple[float, bool, NDArray[np.uint8]]]] = {}
        used: dict[Path, int] = {}
        found[key] = []
        for episode in episodes:
            place = {
                name: episode[f"videos/{key}/{name}"]
                for name in ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
            }
            path = folder / info["video_path"].format(video_key=key, **place)
            if path not in videos:
                videos[path], used[path] = _decoded(path, info["fps"]), 0
            video, start = videos[path], place["from_timestamp"]
            assert start == used[path] / info["fps"]
            used[path] += episode["length"]
            assert place["to_timestamp"] == used[path] / info["fps"]
            mine = frames[episode["dataset_from_index"] : episode["dataset_to_index"]]
            for number, frame in enumerate(mine):
                at, is_key, pixels = video[round((start + frame["timestamp"]) * info["fps"])]
                assert abs(at - start - frame["timestamp"]) <= TOLERANCE_S
                assert is_key or number, "an episode begins with a key frame"
                assert list(pixels.shape) == feature["shape"]
                found[key].append(pixels)
        assert {path: len(video) for path, video in videos.items()} == used
    return found


def _decoded(path: Path, fps: int) -> list[tuple[float, bool, NDArray[np.uint8]]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == fps
        unit = stream.time_base
        assert unit is not None
        found = []
        for each in container.decode(stream):
            pixels = np.asarray(each.to_ndarray(format="rgb24"), np.uint8)
            found.append((float((each.pts or 0) * unit), each.key_frame, pixels))
    return found
