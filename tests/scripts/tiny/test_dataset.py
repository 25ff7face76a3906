"""What the collected files become: a policy's inputs, and the chunks that it is to learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from scripts.tiny.dataset import REST, read
from scripts.tiny.episodes import Demonstration
from scripts.tiny.expert import STEPS
from worker.robots import aloha
from worker.robots.norm_stats import EPSILON

HORIZON = 10


def demonstration(seed: int, steps: list[int]) -> Demonstration:
    random = np.random.default_rng(seed)
    n = len(steps)
    return Demonstration(
        np.array(steps, np.int64),
        random.integers(0, 256, (n, 224, 224, 3), np.uint8),
        (REST + random.uniform(-0.1, 0.1, (n, 14))).astype(np.float32),
        random.uniform(-0.2, 0.2, (n, 1, 3)).astype(np.float32),
        random.uniform(0.1, 0.9, (STEPS, 14)).astype(np.float32),
    )


def test_a_frames_chunk_is_the_plan_from_its_step_on(tmp_path: Path) -> None:
    (tmp_path / "transfer").mkdir()
    last = STEPS - 3
    shown = [demonstration(0, [0, 40]), demonstration(1, []), demonstration(2, [last])]
    for number, each in enumerate(shown):
        each.save(tmp_path / "transfer" / f"{number}.npz")
    data = read(tmp_path, ["transfer"], HORIZON)
    (frames,) = data.frames
    assert frames.steps.tolist() == [0, 40, last]

    def commands(chunk: np.ndarray) -> np.ndarray:
        return aloha.actions_from_model(chunk * (data.actions.std + EPSILON) + data.actions.mean)

    first, second, third = (commands(np.asarray(chunk, np.float64)) for chunk in frames.chunks)
    np.testing.assert_allclose(first, shown[0].plan[:HORIZON], atol=1e-5)
    np.testing.assert_allclose(second, shown[0].plan[40 : 40 + HORIZON], atol=1e-5)
    rows = np.minimum(last + np.arange(HORIZON), STEPS - 1)  # it stays where the plan ends
    np.testing.assert_allclose(third, shown[2].plan[rows], atol=1e-5)


def test_a_task_without_a_demonstration_is_told(tmp_path: Path) -> None:
    (tmp_path / "transfer").mkdir()
    demonstration(0, []).save(tmp_path / "transfer" / "0.npz")  # it failed
    with pytest.raises(FileNotFoundError, match="lacks demonstrations"):
        read(tmp_path, ["transfer"], HORIZON)
