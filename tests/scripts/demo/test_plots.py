"""The picture shows the right numbers at the right times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.image import imread
from matplotlib.patches import Rectangle

from scripts.demo.episode import Episode, Request
from scripts.demo.plots import STAGE_COLOURS, Event, draw_episode, save_episode

STAGES = {**dict.fromkeys(STAGE_COLOURS, 2.0), "model": 30.0, "total": 38.0}


@pytest.fixture
def episode() -> Episode:
    """Two requests in 20 steps; joint j is told 10 + j and stands at j."""
    joints = np.arange(14, dtype=np.float32)
    requests = [Request(0, 0, STAGES), Request(10, 15, STAGES)]
    return Episode([joints] * 20, [joints + 10] * 20, [15], [13, 14], requests)


def points(axes: Axes, label: str) -> list[list[float]]:
    """Where the line with this label has its points, in x and in y."""
    (line,) = (line for line in axes.lines if line.get_label() == label)
    return [np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()]


def test_curves_bars_and_mark(episode: Episode) -> None:
    figure = draw_episode(episode, "a title", Event(10, "worker 1 killed"))
    left, right, changes, latencies = figure.axes
    told, stands = left.lines[0], left.lines[1]
    np.testing.assert_allclose(np.asarray(told.get_xdata(), float), np.arange(20) * 0.02)
    assert {*np.asarray(told.get_ydata())} == {10.0}
    assert {*np.asarray(stands.get_ydata())} == {0.0}
    assert {*np.asarray(right.lines[0].get_ydata())} == {17.0}
    bars = [bar for bar in latencies.patches if isinstance(bar, Rectangle)]
    assert max(bar.get_y() + bar.get_height() for bar in bars) == STAGES["total"]
    assert sorted({bar.get_x() for bar in bars}) == [0.0, pytest.approx(0.2)]
    # As wide as the robot moved on meanwhile; the first was waited for.
    assert sorted({bar.get_width() for bar in bars}) == pytest.approx([0.01, 0.1])
    for axes in (left, right, changes, latencies):
        np.testing.assert_allclose(np.asarray(axes.lines[-1].get_xdata(), float), 0.2)
    assert left.texts[0].get_text() == "worker 1 killed"
    plt.close(figure)


def test_seams_and_held_steps_are_marked_on_the_motion(episode: Episode) -> None:
    episode.actions[15] = episode.actions[15] + np.eye(14, dtype=np.float32)[0]
    figure = draw_episode(episode, "a title", None)
    left, right, changes, _ = figure.axes
    assert points(changes, "seams") == [[pytest.approx(0.3)], [pytest.approx(1.0)]]
    assert points(changes, "held") == [pytest.approx([0.26, 0.28]), [0.0, 0.0]]
    assert points(left, "seams") == [pytest.approx([0.3] * 7), [11.0, *range(11, 17)]]
    assert points(right, "seams")[1] == [*range(17, 24)]
    plt.close(figure)


def test_rewards_stand_beside_the_latencies(episode: Episode) -> None:
    episode.rewards = [0] * 15 + [4] * 5
    figure = draw_episode(episode, "a title", None)
    (line,) = figure.axes[4].lines
    assert [*np.asarray(line.get_ydata())] == episode.rewards
    assert float(np.asarray(line.get_xdata())[15]) == pytest.approx(0.32)
    plt.close(figure)


def test_nothing_is_marked_without_an_event(episode: Episode) -> None:
    episode.seams, episode.held = [], []
    figure = draw_episode(episode, "a title", None)
    assert len(figure.axes[0].lines) == 15  # of which one has no points
    assert len(figure.axes[2].lines) == 1
    assert len(figure.axes[3].lines) == 0
    plt.close(figure)


def test_picture_file(episode: Episode, tmp_path: Path) -> None:
    save_episode(tmp_path / "demo.png", episode, "a title", None)
    picture = imread(tmp_path / "demo.png")
    assert picture.shape[:2] == (1210, 1210)
    assert np.ptp(picture) > 0.5
    assert plt.get_fignums() == []
