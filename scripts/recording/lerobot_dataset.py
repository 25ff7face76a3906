"""Writes a LeRobot dataset, version 3.0 of the format, without the `lerobot` package.

    meta/info.json                       features, frames a second, how files are named
    meta/stats.json                      statistics of every feature over all episodes
    meta/tasks.parquet                   the prompts, by number
    meta/episodes/chunk-000/file-000.parquet   an episode a row: its place in the files, statistics
    data/chunk-000/file-000.parquet      a frame a row, an episode a row group
    videos/KEY/chunk-000/file-000.mp4    a camera's pictures, episode after episode

The layout was read off LeRobot's own writer and loader (lerobot 0.6). A folder is written beside
its place under another name and moved there once it is whole.

Memory: the numbers of one episode, 256 counts of each camera's colours, an encoder for each camera
and the prompts, whatever the dataset's length.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scripts.recording.lerobot_info import (
    DATA_FILE_MB,
    DATA_PATH,
    FILES_A_CHUNK,
    INDEX_FEATURES,
    VIDEO_FILE_MB,
    VIDEO_PATH,
    Feature,
    dataset_info,
)
from scripts.recording.lerobot_statistics import Together, of_rows
from scripts.recording.lerobot_tables import EpisodeTable, FrameTable, write_tasks
from scripts.recording.lerobot_video import CameraFiles
from scripts.recording.taken import refuse_taken

if TYPE_CHECKING:
    from scripts.recording.lerobot_statistics import Statistics

_MB = 1024 * 1024


class DatasetWriter:
    """Writes the frames of one episode after another."""

    def __init__(
        self,
        folder: Path,
        fps: int,
        cameras: Mapping[str, tuple[int, int]],
        features: Mapping[str, Feature],
        *,
        robot_type: str | None = None,
        force: bool = False,
    ) -> None:
        """Begin a dataset.

        Args:
            folder: where it is to be.
            fps: frames a second; the format counts a frame's time by it.
            cameras: height and width by feature, such as `observation.images.top`.
            features: all other features, `action` among them.
            robot_type: what kind of robot it is, for people.
            force: if a dataset is there already, it is replaced once this one is whole.

        Raises:
            Taken: something is there that may not be replaced.
            OSError: it cannot be written.
        """
        refuse_taken_dataset(folder, force)
        self.folder = folder
        self.episodes = self.frames = 0
        self._unfinished = folder.with_name(f".{folder.name}.unfinished")
        shutil.rmtree(self._unfinished, ignore_errors=True)
        (self._unfinished / "meta").mkdir(parents=True)
        self._fps, self._cameras, self._features = fps, dict(cameras), dict(features)
        self._robot_type = robot_type
        self._tasks: dict[str, int] = {}
        self._videos = {key: self._camera_files(key, *size) for key, size in cameras.items()}
        self._data: FrameTable | None = None
        self._data_file = 0
        self._episode_table: EpisodeTable | None = None
        vectors = [*features, *INDEX_FEATURES]
        self._statistics = {key: Together() for key in vectors}
        self._rows: dict[str, list[Any]] = {key: [] for key in vectors}

    def _camera_files(self, key: str, height: int, width: int) -> CameraFiles:
        def path(file: int) -> Path:
            return self._path(VIDEO_PATH, file, video_key=key)

        return CameraFiles(path, self._fps, height, width, VIDEO_FILE_MB * _MB)

    def _path(self, template: str, file: int, **names: str) -> Path:
        """Where the file of such a number is while the dataset is written."""
        chunk, file = divmod(file, FILES_A_CHUNK)
        place = template.format(chunk_index=chunk, file_index=file, **names)
        return self._unfinished / place

    def add_frame(
        self,
        pictures: Mapping[str, NDArray[np.uint8]],
        values: Mapping[str, NDArray[Any]],
        task: str,
    ) -> None:
        """Add a frame to the episode: of each camera (H, W, 3), of each feature (size,).

        Raises:
            ValueError: a key is missing or too many, or of another size; the message names it.
            OSError: it cannot be written.
        """
        self._check(pictures, values)
        frame = len(self._rows["frame_index"])
        indices = {
            "timestamp": frame / self._fps,
            "frame_index": frame,
            "episode_index": self.episodes,
            "index": self.frames,
            "task_index": self._tasks.setdefault(task, len(self._tasks)),
        }
        for key, value in {**values, **indices}.items():
            self._rows[key].append(value)
        for key, pixels in pictures.items():
            self._videos[key].add(pixels)
        self.frames += 1

    def end_episode(self) -> None:
        """The frames since the last episode become one; without any, nothing happens.

        Raises:
            OSError: it cannot be written.
        """
        length = len(self._rows["frame_index"])
        if not length:
            return
        dtypes = {**{k: f.dtype for k, f in self._features.items()}, **INDEX_FEATURES}
        rows = {key: np.array(each, dtypes[key]) for key, each in self._rows.items()}
        statistics: dict[str, Statistics] = {}
        for key, values in rows.items():
            statistics[key] = of_rows(values.reshape(length, -1))
            self._statistics[key].add(statistics[key])
        places: dict[str, Any] = {}
        for key, video in self._videos.items():
            place = video.end_episode()
            chunk, file = divmod(place.file, FILES_A_CHUNK)
            places |= {
                f"videos/{key}/chunk_index": chunk,
                f"videos/{key}/file_index": file,
                f"videos/{key}/from_timestamp": place.first / self._fps,
                f"videos/{key}/to_timestamp": place.end / self._fps,
            }
            statistics[key] = place.statistics
        texts = list(self._tasks)
        row = {
            "episode_index": self.episodes,
            "tasks": [texts[number] for number in np.unique(rows["task_index"])],
            "length": length,
            **self._write_rows(rows),
            "dataset_from_index": self.frames - length,
            "dataset_to_index": self.frames,
            **places,
        }
        if self._episode_table is None:
            self._episode_table = EpisodeTable(self._unfinished / "meta" / "episodes", statistics)
        self._episode_table.add(row, statistics)
        self._rows = {key: [] for key in self._rows}
        self.episodes += 1

    def close(self) -> None:
        """Write what is left and move the dataset to its place. It needs an episode.

        Raises:
            ValueError: there is no episode.
            OSError: it cannot be written.
        """
        self.end_episode()
        if self._episode_table is None or self._data is None:
            raise ValueError("a dataset needs an episode, and there is none")
        self._data.close()
        self._episode_table.close()
        for video in self._videos.values():
            video.close()
        meta = self._unfinished / "meta"
        write_tasks(meta / "tasks.parquet", list(self._tasks))
        statistics = {key: each.told() for key, each in self._statistics.items()}
        statistics |= {key: video.colours.told() for key, video in self._videos.items()}
        (meta / "stats.json").write_text(json.dumps(statistics, indent=4) + "\n")
        info = dataset_info(
            self._cameras,
            self._features,
            fps=self._fps,
            robot_type=self._robot_type,
            episodes=self.episodes,
            frames=self.frames,
            tasks=len(self._tasks),
        )
        (meta / "info.json").write_text(json.dumps(info, indent=4) + "\n")
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self._unfinished.rename(self.folder)

    def abandon(self) -> None:
        """Remove all that was written; nothing happens after `close`."""
        for each in (self._data, self._episode_table, *self._videos.values()):
            if each is not None:
                each.abandon()
        shutil.rmtree(self._unfinished, ignore_errors=True)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.abandon()

    def _check(self, pictures: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        expected: dict[str, tuple[int, ...]]
        expected = {key: (*size, 3) for key, size in self._cameras.items()}
        expected |= {key: (feature.size,) for key, feature in self._features.items()}
        given = {key: np.shape(value) for key, value in {**pictures, **values}.items()}
        for key in sorted(expected.keys() ^ given.keys()):
            what = "is missing" if key in expected else "is none of the dataset's"
            raise ValueError(f"{key} {what}: each frame has {', '.join(expected)}")
        for key, shape in expected.items():
            if given[key] != shape:
                raise ValueError(f"{key} has the shape {given[key]}, all others have {shape}")

    def _write_rows(self, rows: Mapping[str, NDArray[Any]]) -> dict[str, int]:
        """Where an episode's rows now are."""
        if self._data is not None and self._data.bytes() >= DATA_FILE_MB * _MB:
            self._data.close()
            self._data, self._data_file = None, self._data_file + 1
        if self._data is None:
            sizes = {key: feature.size for key, feature in self._features.items()}
            self._data = FrameTable(self._path(DATA_PATH, self._data_file), sizes, rows)
        self._data.add(rows)
        chunk, file = divmod(self._data_file, FILES_A_CHUNK)
        return {"data/chunk_index": chunk, "data/file_index": file}


def refuse_taken_dataset(folder: Path, force: bool) -> None:
    """Nothing happens where a dataset may be written.

    Raises:
        Taken: something is there; with `force`: something that is no dataset.
    """
    refuse_taken(folder, force, folder / "meta" / "info.json", "LeRobot dataset")
