"""A picture of one episode: what the arms were told, where they went, and what requests took."""

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

from scripts.demo.episode import CONTROL_PERIOD_S, Episode, Request

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


SEAM, HELD = "tab:red", "tab:gray"


class Event(NamedTuple):
    """Something to mark across the picture: at which control step, and what."""

    step: int
    label: str


def draw_arm(axes: Axes, title: str, episode: Episode, arm: int) -> None:
    """Commanded (line) and measured (dots) joints of the arm 0 (left) or 1 (right); red: seams."""
    first = arm * len(JOINTS)
    times = _times(episode)
    commanded = np.stack(episode.actions)[:, first : first + len(JOINTS)]
    measured = np.stack(episode.states)[:, first : first + len(JOINTS)]
    for joint, name in enumerate(JOINTS):
        (line,) = axes.plot(times, commanded[:, joint], linewidth=1.2, label=name)
        axes.plot(times, measured[:, joint], ":", linewidth=1.4, color=line.get_color())
    seams = np.repeat(times[episode.seams], len(JOINTS))
    axes.plot(seams, commanded[episode.seams].ravel(), ".", ms=3, color=SEAM, label="seams")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylabel("rad")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)


def draw_changes(axes: Axes, episode: Episode) -> None:
    """How far each command lies from the one before; red where it is the first of a chunk."""
    times, changes = _times(episode), episode.changes()
    axes.plot(times, changes, linewidth=0.8, color="tab:blue", label="inside of chunks")
    for steps, colour, label in ((episode.seams, SEAM, "seams"), (episode.held, HELD, "held")):
        if steps:
            axes.plot(times[steps], changes[steps], ".", ms=5, color=colour, label=label)
    axes.set_title("change of all joints from one command to the next", loc="left", fontsize=10)
    axes.set_ylabel("rad")
    axes.set_ylim(bottom=0)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, frameon=False)


def draw_latencies(axes: Axes, requests: list[Request]) -> None:
    """One stacked bar for each request, from the control step it was made in to its answer's."""
    starts = np.array([request.step for request in requests]) * CONTROL_PERIOD_S
    # An answer within the same step has a width too, so that it can be seen.
    widths = np.array([max(0.5, r.answered - r.step) for r in requests]) * CONTROL_PERIOD_S
    below = np.zeros(len(requests))
    for stage, colour in STAGE_COLOURS.items():
        heights = np.array([request.stages[stage] for request in requests])
        axes.bar(starts, heights, widths, below, color=colour, label=stage, align="edge")
        below += heights
    title = "each request: its time on the clock by stage, and how far the robot moved on meanwhile"
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_ylabel("ms")
    axes.set_ylim(0, float(below.max(initial=1.0)) * 1.15)
    axes.legend(loc="center left", bbox_to_anchor=(1.06, 0.5), fontsize=8, frameon=False)


def draw_rewards(axes: Axes, rewards: list[int]) -> None:
    """The task's reward beside what is drawn in `axes`, on a scale of its own to the right."""
    beside = axes.twinx()
    times = (np.arange(len(rewards)) + 1) * CONTROL_PERIOD_S
    beside.step(times, rewards, where="post", color="black", linewidth=1.5)
    beside.set_ylim(0, 4.6)
    beside.set_ylabel("reward (4: handed over)")
    beside.spines["top"].set_visible(False)


def draw_episode(episode: Episode, title: str, event: Event | None) -> Figure:
    """Both arms, how smoothly they move, and latencies (and reward) over the robot's time.

    Args:
        episode: at least one step.
        title: above everything.
        event: a moment to mark in all panels, or None.
    """
    figure, panels = plt.subplots(
        4, 1, figsize=(11, 11), sharex=True, layout="constrained", height_ratios=[3, 3, 2, 2]
    )
    left, right, changes, latencies = panels
    draw_arm(left, "left arm: commanded (lines), measured (dots)", episode, 0)
    draw_arm(right, "right arm", episode, 1)
    draw_changes(changes, episode)
    draw_latencies(latencies, episode.requests)
    latencies.set_xlabel("robot's time (s)")
    if episode.rewards:
        draw_rewards(latencies, episode.rewards)
    for axes in panels:
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if event is not None:
            at = event.step * CONTROL_PERIOD_S
            axes.axvline(at, color="crimson", linewidth=1.5, linestyle="--")
    if event is not None:
        above = left.get_xaxis_transform()
        left.text(
            event.step * CONTROL_PERIOD_S, 1.02, event.label, color="crimson", transform=above
        )
    figure.suptitle(title, fontsize=12)
    return figure


def save_episode(path: Path, episode: Episode, title: str, event: Event | None) -> None:
    """Write `draw_episode`'s picture to `path` as PNG."""
    figure = draw_episode(episode, title, event)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _times(episode: Episode) -> NDArray[np.floating[Any]]:
    """The robot's time at each control step."""
    return np.arange(episode.steps) * CONTROL_PERIOD_S
