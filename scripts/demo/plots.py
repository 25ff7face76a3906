"""A picture of one episode: what the arms were told, where they went, what each request took."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("Agg")  # no display: must be chosen before pyplot is imported

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scripts.demo.episode import Episode, Request

JOINTS = (
    "waist",
    "shoulder",
    "elbow",
    "forearm roll",
    "wrist angle",
    "wrist rotation",
    "gripper (0 to 1)",
)
# From the robot's side to the model and back, so that neighbours in the stack differ in colour.
STAGE_COLOURS = {
    "encode": "#e9c46a",
    "network and queue": "#e76f51",
    "transforms": "#8ab17d",
    "model": "#264653",
    "decode": "#9d4edd",
}


class Event(NamedTuple):
    """Something to mark across the picture: at which control step, and what."""

    step: int
    label: str


def draw_arm(
    axes: Axes, title: str, times: NDArray[np.floating[Any]], episode: Episode, arm: int
) -> None:
    """Commanded (line) and measured (dots) joints of the arm 0 (left) or 1 (right)."""
    first = arm * len(JOINTS)
    commanded = np.stack(episode.actions)[:, first : first + len(JOINTS)]
    measured = np.stack(episode.states)[:, first : first + len(JOINTS)]
    for joint, name in enumerate(JOINTS):
        (line,) = axes.plot(times, commanded[:, joint], linewidth=1.2, label=name)
        axes.plot(times, measured[:, joint], ":", linewidth=1.4, color=line.get_color())
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylabel("rad")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)


def draw_latencies(axes: Axes, requests: list[Request], period_s: float, width_s: float) -> None:
    """One stacked bar for each request, `width_s` wide, from the moment it was made."""
    times = np.array([request.step * period_s for request in requests])
    below = np.zeros(len(requests))
    for stage, colour in STAGE_COLOURS.items():
        heights = np.array([request.stages[stage] for request in requests])
        axes.bar(times, heights, width_s, below, color=colour, label=stage, align="edge")
        below += heights
    axes.set_title("time of each request by stage", loc="left", fontsize=10)
    axes.set_ylabel("ms")
    axes.set_ylim(0, float(below.max()) * 1.15)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)


def draw_rewards(axes: Axes, rewards: list[int], period_s: float) -> None:
    """The task's reward beside what is drawn in `axes`, on a scale of its own to the right."""
    beside = axes.twinx()
    times = (np.arange(len(rewards)) + 1) * period_s
    beside.step(times, rewards, where="post", color="black", linewidth=1.5)
    beside.set_ylim(0, 4.6)
    beside.set_ylabel("reward (4: handed over)")
    beside.spines["top"].set_visible(False)


def draw_episode(episode: Episode, period_s: float, title: str, event: Event | None) -> Figure:
    """Both arms and the latencies (and reward) over the robot's time; `event` is marked in all.

    Args:
        episode: at least one step and one request.
        period_s: length of a control step in seconds.
        title: above everything.
        event: a moment to mark, or None.
    """
    figure, (left, right, latencies) = plt.subplots(
        3, 1, figsize=(11, 9), sharex=True, layout="constrained"
    )
    times = np.arange(len(episode.actions)) * period_s
    draw_arm(left, "left arm: commanded (lines), measured (dots)", times, episode, 0)
    draw_arm(right, "right arm", times, episode, 1)
    spacing = len(episode.actions) / len(episode.requests) * period_s
    draw_latencies(latencies, episode.requests, period_s, 0.7 * spacing)
    latencies.set_xlabel("robot's time (s)")
    if episode.rewards:
        draw_rewards(latencies, episode.rewards, period_s)
        latencies.get_legend().set_bbox_to_anchor((1.06, 0.5))
    for axes in (left, right, latencies):
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if event is not None:
            axes.axvline(event.step * period_s, color="crimson", linewidth=1.5, linestyle="--")
    if event is not None:
        above = left.get_xaxis_transform()
        left.text(event.step * period_s, 1.02, event.label, color="crimson", transform=above)
    figure.suptitle(title, fontsize=12)
    return figure


def save_episode(
    path: Path, episode: Episode, period_s: float, title: str, event: Event | None
) -> None:
    """Write `draw_episode`'s picture to `path` as PNG."""
    figure = draw_episode(episode, period_s, title, event)
    figure.savefig(path, dpi=110)
    plt.close(figure)
