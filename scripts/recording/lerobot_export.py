"""From recorded requests to a LeRobot dataset: a frame for each request, an episode a session.

A frame holds what the robot saw and the first action of the chunk that it was answered with.
Between two requests a robot moves by the rest of the chunk, but no one saw what it saw there, so
frames are as far apart as requests: their rate is the median one. The true times are in
`elapsed_s`, from the episode's first frame on, and `recorded_at`, by the broker's clock. `chunk`
has all actions of the answer, row after row.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from client.errors import BadObservation
from scripts.recording.episodes import Progress, Shape, Survey
from scripts.recording.lerobot_dataset import DatasetWriter
from scripts.recording.lerobot_info import Feature
from scripts.recording.observation_parts import Parts, chunk_of, split

ACTION, STATE, CHUNK = "action", "observation.state", "chunk"
# LeRobot hands numbers out as float32, which the time of day does not fit into.
ELAPSED, RECORDED_AT = "elapsed_s", "recorded_at"


class Changed(ValueError):
    """A log changed while it was read."""


def frames_a_second(period_s: float | None) -> int:
    """The whole rate nearest to that of the requests; at least 1, which also stands for unknown."""
    return 1 if period_s is None else max(1, round(1.0 / period_s))


def write_dataset(
    found: Survey,
    folder: Path,
    *,
    fps: int,
    robot_type: str | None = None,
    force: bool = False,
    progress: Progress,
) -> None:
    """Write a survey's episodes; `progress` is told of requests.

    Raises:
        Taken: something is in the folder's place that may not be replaced.
        OSError: it cannot be written, or a log cannot be read.
        DamagedLog: a log has changed since the survey.
        Changed: likewise.
    """
    shape = found.episodes[0].shape
    total, done = found.requests(), 0
    with DatasetWriter(
        folder, fps, _cameras(shape), _features(shape), robot_type=robot_type, force=force
    ) as dataset:
        for episode in found.episodes:
            started_at: float | None = None
            for exchange in found.read(episode):
                started_at = exchange.at if started_at is None else started_at
                parts = split(exchange.observation or {})
                chunk = chunk_of(exchange.result)
                try:
                    pictures = {_camera(n): each.pixels() for n, each in parts.pictures.items()}
                except BadObservation as error:
                    raise Changed(f"request {exchange.id} in {episode}: {error}") from error
                if chunk is None:
                    raise Changed(f"request {exchange.id} in {episode} has no actions any more")
                values = {
                    **_states(parts),
                    ACTION: chunk[0],
                    CHUNK: chunk.reshape(-1),
                    ELAPSED: np.array([exchange.at - started_at]),
                    RECORDED_AT: np.array([exchange.at]),
                }
                dataset.add_frame(pictures, values, parts.prompt)
                done += 1
                progress(done, total)
            dataset.end_episode()


def _camera(name: str) -> str:
    return f"observation.images.{name}"


def _cameras(shape: Shape) -> dict[str, tuple[int, int]]:
    return {_camera(name): size for name, size in shape.pictures.items()}


def _features(shape: Shape) -> dict[str, Feature]:
    rows, dim = shape.chunk
    return {
        **_state_features(shape.vectors),
        ACTION: Feature(dim),
        CHUNK: Feature(rows * dim),
        ELAPSED: Feature(1),
        RECORDED_AT: Feature(1, "float64"),
    }


def _state_features(sizes: Mapping[str, int]) -> dict[str, Feature]:
    if not _is_joined(sizes):
        return {f"observation.{name}": Feature(size) for name, size in sizes.items()}
    names = [f"{name}.{number}" for name in sorted(sizes) for number in range(sizes[name])]
    return {STATE: Feature(len(names), names=names)}


def _states(parts: Parts) -> dict[str, Any]:
    vectors = parts.vectors
    if not _is_joined(vectors):
        return {f"observation.{name}": vector for name, vector in vectors.items()}
    return {STATE: np.concatenate([vectors[name] for name in sorted(vectors)])}


def _is_joined(vectors: Mapping[str, Any]) -> bool:
    """Policies look for one `observation.state`: without a `state`, all vectors make it up."""
    return bool(vectors) and "state" not in vectors
