"""Demonstrations as the model takes them: in its own convention, normalised."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from scripts.tiny.episodes import Demonstration
from scripts.tiny.expert import STEPS
from scripts.tiny.kinematics import START
from scripts.tiny.scene import TASKS, Task
from worker.errors import CheckpointError
from worker.robots import aloha
from worker.robots.norm_stats import EPSILON

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]

ROBOT_DIMS = 14
BATCH = 32
"""Frames of each task in a step of training."""
OBJECTS = ("cube", "peg", "socket")
"""Whose places the auxiliary loss asks for."""
OBJECTS_OF = {"transfer": (0,), "insertion": (1, 2)}
REST = np.array([*START, 0.0] * 2)
"""Where the arms are before an episode, grippers closed."""
LEAST_STD = 0.02
"""Joints that hardly move are not blown up to the size of those that do."""
_FIELDS = ("mean", "std")


@dataclass(frozen=True)
class Statistics:
    """Mean and standard deviation of each dimension, float64 (14,)."""

    mean: Array
    std: Array

    @staticmethod
    def of(values: Array) -> Statistics:
        """Of `values` (n, 14); no deviation is less than LEAST_STD."""
        return Statistics(values.mean(0), np.maximum(values.std(0), LEAST_STD))

    @staticmethod
    def read(path: Path) -> tuple[Statistics, Statistics]:
        """Those of states and of actions, from the `norm_stats.json` of a tiny checkpoint.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it holds something else.
        """
        try:
            parts = json.loads(path.read_text())["norm_stats"]
            state, actions = (
                Statistics(
                    *(np.array(parts[name][key], np.float64).reshape(ROBOT_DIMS) for key in _FIELDS)
                )
                for name in ("state", "actions")
            )
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path} holds no statistics of 14 joints ({error})") from error
        return state, actions

    def normalize(self, values: Array) -> Float32:
        """As the worker does (`worker.robots.norm_stats`), float32."""
        return ((values - self.mean) / (self.std + EPSILON)).astype(np.float32)


@dataclass(frozen=True)
class Frames:
    """All frames of one task."""

    task: Task
    images: NDArray[np.uint8]
    """(n, 224, 224, 3)"""
    states: Float32
    """Normalised, (n, 14)."""
    chunks: Float32
    """What the expert does next, normalised, (n, horizon, 14)."""
    returns: Float32
    """The way back to rest, of the same shape: what is right where another task is asked for."""
    objects: Float32
    """Where the task's objects are on the table, in decimetres, (n, objects, 2)."""
    steps: NDArray[np.int64]
    """At which control step of its episode each was taken."""

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Dataset:
    """What a training sees."""

    frames: list[Frames]
    state: Statistics
    actions: Statistics

    def norm_stats(self) -> str:
        """The statistics as `norm_stats.json` of a checkpoint holds them.

        Quantiles, which only pi0.5 reads, are those of a normal distribution.
        """
        parts = {
            name: {
                "mean": stats.mean.round(6).tolist(),
                "std": stats.std.round(6).tolist(),
                "q01": (stats.mean - 2.32635 * stats.std).round(6).tolist(),
                "q99": (stats.mean + 2.32635 * stats.std).round(6).tolist(),
            }
            for name, stats in (("state", self.state), ("actions", self.actions))
        }
        return json.dumps({"norm_stats": parts}, indent=1) + "\n"


def read(
    folder: Path,
    tasks: Sequence[str],
    horizon: int,
    statistics: tuple[Statistics, Statistics] | None = None,
) -> Dataset:
    """The demonstrations of `tasks` that `scripts.tiny.collect` put into `folder`.

    They are normalised with `statistics` of states and actions; None: with their own.

    Raises:
        FileNotFoundError: one of them has no demonstrations.
    """
    found = {name: _read_task(folder / name) for name in tasks}
    if not all(found.values()):
        raise FileNotFoundError(f"{folder} lacks demonstrations; scripts.tiny.collect makes some")
    rows = np.arange(horizon)
    states, chunks, returns = {}, {}, {}
    for name, demonstrations in found.items():
        sent = np.concatenate([d.states for d in demonstrations]).astype(np.float64)
        states[name] = np.stack([aloha.state_to_model(state) for state in sent])
        plans = [aloha.actions_to_model(d.plan.astype(np.float64)) for d in demonstrations]
        chunks[name] = np.concatenate(
            [
                plan[np.minimum(d.steps[:, None] + rows, STEPS - 1)]
                for plan, d in zip(plans, demonstrations, strict=True)
            ]
        )
        share = np.linspace(1 / horizon, 1.0, horizon)[:, None]
        returns[name] = aloha.actions_to_model(sent[:, None] + share * (REST - sent[:, None]))
    state, actions = statistics or (
        Statistics.of(np.concatenate(list(states.values()))),
        Statistics.of(np.concatenate([c.reshape(-1, ROBOT_DIMS) for c in chunks.values()])),
    )
    frames = [
        Frames(
            TASKS[name],
            np.concatenate([d.images for d in demonstrations]),
            state.normalize(states[name]),
            actions.normalize(chunks[name]),
            actions.normalize(returns[name]),
            np.float32(10.0) * np.concatenate([d.objects for d in demonstrations])[..., :2],
            np.concatenate([d.steps for d in demonstrations]),
        )
        for name, demonstrations in found.items()
    ]
    return Dataset(frames, state, actions)


def _read_task(folder: Path) -> list[Demonstration]:
    """Those that succeeded."""
    all_of_them = (Demonstration.load(path) for path in sorted(folder.glob("*.npz")))
    return [each for each in all_of_them if len(each.steps)]
