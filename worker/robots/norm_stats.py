"""Normalisation statistics, as a checkpoint has them, and how they scale states and actions.

z-score (pi0): (x - mean) / (std + 1e-6). Quantile (pi05): (x - q01) / (q99 - q01 + 1e-6) * 2 - 1.
The small terms are the trained models' own and are undone exactly on the way back.

LeRobot's are similar, and the differences are kept: it computes in float32, and its small term is
1e-8. A z-score does not undo that term on the way back, and a range has it only if it is empty.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.checkpoints.lerobot import STATISTICS, Normalizer
from worker.config import Normalization
from worker.errors import CheckpointError

Array = npt.NDArray[np.float64]
EPSILON = 1e-6


@dataclass(frozen=True)
class Scale:
    """An affine map, `normalised = (x - offset) / width + base`, per dimension, float64."""

    offset: Array
    width: Array
    base: float
    width_back: Array | None = None
    """The width that undoes it; None: the same."""
    single: bool = False
    """Whether it is computed in float32, so that a value at an edge falls into training's bin."""

    def normalize(self, x: Array) -> Array:
        """Scale `x` (..., dims); dims must not exceed the statistics'."""
        dims = x.shape[-1]
        if not self.single:
            return (x - self.offset[:dims]) / self.width[:dims] + self.base
        offset, width = (part[:dims].astype(np.float32) for part in (self.offset, self.width))
        scaled = (x.astype(np.float32) - offset) / width + np.float32(self.base)
        return scaled.astype(np.float64)

    def unnormalize(self, x: Array) -> Array:
        """Undo it for `x` (..., dims); dims beyond the statistics are returned unchanged."""
        dims = min(x.shape[-1], len(self.offset))
        width = self.width if self.width_back is None else self.width_back
        known = (x[..., :dims] - self.base) * width[:dims] + self.offset[:dims]
        return np.concatenate([known, x[..., dims:]], axis=-1)


@dataclass(frozen=True)
class NormStats:
    """The scales of one robot's states and actions."""

    state: Scale
    actions: Scale


def read_norm_stats(
    path: Path, normalization: Normalization, state_dim: int, action_dim: int
) -> NormStats:
    """Read `norm_stats.json`; both parts must cover the robot's dims (more are allowed).

    Raises:
        CheckpointError: the file cannot be used; the message says what is wrong in it.
    """
    try:
        stats = json.loads(path.read_bytes())["norm_stats"]
        state, actions = stats["state"], stats["actions"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} holds no normalisation statistics: {error!r}") from error
    return NormStats(
        _scale(path, "state", state, normalization, state_dim),
        _scale(path, "actions", actions, normalization, action_dim),
    )


def _scale(path: Path, name: str, stats: Any, normalization: Normalization, dims: int) -> Scale:
    keys = ("mean", "std") if normalization is Normalization.zscore else ("q01", "q99")
    try:
        if any(stats[key] is None for key in keys):
            raise TypeError("null")
        first, second = (np.asarray(stats[key], dtype=np.float64) for key in keys)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: {name} has no usable {' and '.join(keys)}, which"
            f" model.normalization={normalization} needs"
        ) from error
    if first.shape != second.shape or first.ndim != 1 or len(first) < dims:
        raise CheckpointError(
            f"{path}: {name} has statistics of shape {first.shape} and {second.shape}, but the"
            f" robot has {dims} values; is env.asset_id= right?"
        )
    _check_numbers(f"{path}: {name}", keys, first, second)
    if normalization is Normalization.zscore:
        return Scale(first, second + EPSILON, 0.0)
    return Scale(first, (second - first + EPSILON) / 2.0, -1.0)


def lerobot_scale(where: str, normalizer: Normalizer, dims: int) -> Scale:
    """The scale of a LeRobot policy's `normalizer`, for a vector of `dims` numbers.

    Raises:
        CheckpointError: the numbers cannot be used; the message begins with `where`.
    """
    if not normalizer.numbers:
        return Scale(np.zeros(dims), np.ones(dims), 0.0)
    keys = STATISTICS[normalizer.mode]
    first, second = normalizer.numbers
    if first.shape != (dims,) or second.shape != (dims,):
        raise CheckpointError(
            f"{where} has statistics of shape {first.shape} and {second.shape}, but the robot has"
            f" {dims} values; is env= right?"
        )
    _check_numbers(where, keys, first, second)
    if normalizer.mode == "MEAN_STD":
        return Scale(first, second + normalizer.epsilon, 0.0, second, single=True)
    width = np.where(second == first, normalizer.epsilon, second - first)
    return Scale(first, width / 2.0, -1.0, single=True)


def _check_numbers(where: str, keys: tuple[str, ...], first: Array, second: Array) -> None:
    """Refuse statistics that would turn actions into nonsense."""
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise CheckpointError(f"{where} has statistics that are not finite")
    low = np.zeros_like(second) if keys[1] == "std" else first
    if (second < low).any():
        dim = int(np.flatnonzero(second < low)[0])
        wrong = "a negative std" if keys[1] == "std" else f"{keys[0]} above {keys[1]}"
        raise CheckpointError(f"{where} has {wrong} in dimension {dim}")
