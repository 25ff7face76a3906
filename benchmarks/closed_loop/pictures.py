"""Pictures of a comparison: what each method does to the motion as the delay grows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display: must be chosen before pyplot is imported

import numpy as np
from matplotlib import pyplot as plt

from benchmarks.closed_loop.episodes import Record
from benchmarks.closed_loop.measures import Row
from scripts.tiny.scene import CONTROL_PERIOD_S

PANELS: tuple[tuple[str, Callable[[Row], float]], ...] = (
    ("seam jump over change inside chunks", lambda row: row.seam_ratio),
    ("control steps without a fresh action", lambda row: row.starved_steps),
    ("mean age of the observation, ms", lambda row: row.age_ms),
    ("successes of 100", lambda row: 100 * row.successes / row.episodes),
    ("seconds until done", lambda row: row.seconds_to_done or float("nan")),
    ("jerk at seams over jerk inside", lambda row: row.seam_jerk / row.inside_jerk),
)
LOGARITHMIC = {5}
SHOWN_JOINT = 8
"""The right arm's shoulder, which reaches for the cube."""


def plot_comparison(path: Path, rows: Sequence[Row]) -> None:
    """One panel for each measure, one line for each method, over the steady delays."""
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    steady = [row for row in rows if row.link == f"{row.delay_ms:g} ms"]
    for number, (axis, (title, value)) in enumerate(zip(axes.flat, PANELS, strict=True)):
        for method in dict.fromkeys(row.method for row in steady):
            line = [row for row in steady if row.method == method]
            axis.plot(
                [row.delay_ms for row in line], [value(row) for row in line], "o-", label=method
            )
        axis.set_title(title)
        axis.set_xlabel("delay, ms")
        if number in LOGARITHMIC:
            axis.set_yscale("log")
        else:
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    lines, names = axes.flat[0].get_legend_handles_labels()
    figure.legend(lines, names, loc="outside lower center", ncols=len(names))
    figure.savefig(path, dpi=90)
    plt.close(figure)


def plot_motion(path: Path, records: dict[str, Record]) -> None:
    """How fast one joint is told to move in one episode, one panel for each method."""
    size = (12, 2 * len(records))
    figure, axes = plt.subplots(len(records), 1, figsize=size, sharex=True, sharey=True)
    for axis, (method, record) in zip(np.atleast_1d(axes), records.items(), strict=True):
        seconds = CONTROL_PERIOD_S * np.arange(len(record.actions))
        joint = np.stack(record.actions)[:, SHOWN_JOINT]
        speed = np.diff(joint, prepend=joint[0]) / CONTROL_PERIOD_S
        axis.plot(seconds, speed, lw=1.0)
        seams, held = np.array(record.seams), ~np.array(record.fresh)
        axis.plot(seconds[seams], speed[seams], "o", ms=3, color="tab:red", label="seam")
        axis.plot(seconds[held], speed[held], ".", ms=3, color="tab:gray", label="held")
        axis.set_ylabel(f"{method}\nrad/s")
        axis.grid(alpha=0.3)
    np.atleast_1d(axes)[0].legend(loc="upper right")
    np.atleast_1d(axes)[-1].set_xlabel("s")
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)
