"""`meta/info.json` of a LeRobot dataset: its features, and how its files are named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scripts.recording.lerobot_video import described

VERSION = "v3.0"
FILES_A_CHUNK = 1000
DATA_FILE_MB, VIDEO_FILE_MB = 100, 200
_PLACE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = f"data/{_PLACE}.parquet"
VIDEO_PATH = f"videos/{{video_key}}/{_PLACE}.mp4"

# What every dataset has, after its own features.
INDEX_FEATURES = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


@dataclass(frozen=True)
class Feature:
    """A vector of each frame.

    Attributes:
        size: how many numbers.
        dtype: as numpy and Arrow both call it.
        names: one for each number, or None.
    """

    size: int
    dtype: str = "float32"
    names: Sequence[str] | None = None


def dataset_info(
    cameras: Mapping[str, tuple[int, int]],
    given: Mapping[str, Feature],
    *,
    fps: int,
    robot_type: str | None,
    episodes: int,
    frames: int,
    tasks: int,
) -> dict[str, Any]:
    """What the file says of a dataset with these cameras (height and width) and features."""
    features: dict[str, Any] = {
        key: {
            "dtype": "video",
            "shape": [*size, 3],
            "names": ["height", "width", "channels"],
            "info": described(fps, *size),
        }
        for key, size in cameras.items()
    }
    for key, feature in given.items():
        names = None if feature.names is None else list(feature.names)
        features[key] = {"dtype": feature.dtype, "shape": [feature.size], "names": names}
    for key, dtype in INDEX_FEATURES.items():
        features[key] = {"dtype": dtype, "shape": [1], "names": None}
    return {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": FILES_A_CHUNK,
        "data_files_size_in_mb": DATA_FILE_MB,
        "video_files_size_in_mb": VIDEO_FILE_MB,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if cameras else None,
        "features": features,
    }
