"""Normalisation statistics, as a checkpoint brings them, and what they do to states and actions.

z-score (pi0): (x - mean) / (std + 1e-6). Quantile (pi05): (x - q01) / (q99 - q01 + 1e-6) * 2 - 1.
The small terms are the trained models' own and are undone exactly on the way back.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

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

    def normalize(self, x: Array) -> Array:
        """Scale `x` (..., dims); dims must not exceed the statistics'."""
        dims = x.shape[-1]
        return (x - self.offset[:dims]) / self.width[:dims] + self.base

    def unnormalize(self, x: Array) -> Array:
        """Undo it for `x` (..., dims); dims beyond the statistics are returned unchanged."""
        dims = min(x.shape[-1], len(self.offset))
        known = (x[..., :dims] - self.base) * self.width[:dims] + self.offset[:dims]
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

    Raises `CheckpointError` naming the file and what is wrong in it.
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
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise CheckpointError(f"{path}: {name} has statistics that are not finite")
    if normalization is Normalization.zscore:
        return Scale(first, second + EPSILON, 0.0)
    return Scale(first, (second - first + EPSILON) / 2.0, -1.0)
