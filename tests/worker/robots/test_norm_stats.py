"""Normalisation statistics: their formulas, and files that can't be used."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.config import Normalization
from worker.errors import CheckpointError
from worker.robots.norm_stats import NormStats, read_norm_stats

STATS = {"mean": [1.0, 2.0], "std": [0.5, 4.0], "q01": [-1.0, 0.0], "q99": [3.0, 10.0]}


def read(path: Path, stats: Any, normalization: Normalization, dims: int = 2) -> NormStats:
    path.write_text(json.dumps({"norm_stats": {"state": stats, "actions": stats}}))
    return read_norm_stats(path, normalization, dims, dims)


def test_zscore_follows_its_formula_both_ways(tmp_path: Path) -> None:
    scale = read(tmp_path / "s.json", STATS, Normalization.zscore).actions
    x = np.array([[3.0, -2.0]])
    np.testing.assert_allclose(scale.normalize(x), [[2 / (0.5 + 1e-6), -4 / (4 + 1e-6)]])
    np.testing.assert_allclose(scale.unnormalize(scale.normalize(x)), x)


def test_quantile_follows_its_formula_both_ways(tmp_path: Path) -> None:
    scale = read(tmp_path / "s.json", STATS, Normalization.quantile).state
    x = np.array([3.0, 0.0])
    np.testing.assert_allclose(scale.normalize(x), [4 / (4 + 1e-6) * 2 - 1, -1.0])
    np.testing.assert_allclose(scale.unnormalize(scale.normalize(x)), x)


@pytest.mark.parametrize("normalization", list(Normalization))
def test_dims_beyond_the_statistics_come_back_unchanged(
    tmp_path: Path, normalization: Normalization
) -> None:
    scale = read(tmp_path / "s.json", STATS, normalization).actions
    assert scale.unnormalize(np.array([[0.0, 0.0, 7.0, -7.0]]))[0, 2:].tolist() == [7.0, -7.0]


def test_statistics_longer_than_the_state_are_cut(tmp_path: Path) -> None:
    scale = read(tmp_path / "s.json", STATS, Normalization.zscore, dims=1).state
    assert scale.normalize(np.array([1.0])).tolist() == [0.0]


@pytest.mark.parametrize(
    ("stats", "says"),
    [
        ({"mean": [1.0, 2.0]}, "no usable mean and std"),
        ({**STATS, "mean": ["a", "b"]}, "no usable mean and std"),
        ({**STATS, "std": [1.0]}, "env.asset_id"),
        ({**STATS, "mean": [1.0], "std": [1.0]}, "the robot has 2 values"),
        ({**STATS, "std": [1.0, float("nan")]}, "not finite"),
        (7, "no usable"),
    ],
)
def test_unusable_statistics_are_named(tmp_path: Path, stats: Any, says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        read(tmp_path / "s.json", stats, Normalization.zscore)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"norm_stats": {"state": {}}}', "\xff"])
def test_a_file_without_statistics_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"s\.json holds no normalisation statistics"):
        read_norm_stats(tmp_path / "s.json", Normalization.zscore, 2, 2)
