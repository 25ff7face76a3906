"""The picture of a training: how its losses fell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display: must be chosen before pyplot is imported

import numpy as np
from matplotlib import pyplot as plt

TITLES = {
    "flow": "flow matching: squared error of the velocity, normalised actions",
    "place_mm": "auxiliary loss: where the objects lie, mean error in mm",
}
SMOOTHED = 50


def draw(path: Path, losses: Mapping[str, Sequence[float]]) -> None:
    """Save `losses` over steps, raw and as a running mean, to the picture `path`.

    Those that nothing was learnt from have no values, or zeros, and no place in it.
    """
    learnt = {name: values for name, values in losses.items() if np.any(values)}
    rows = max(1, len(learnt))
    figure, grid = plt.subplots(rows, 1, figsize=(8, 3 * rows), sharex=True, squeeze=False)
    axes = grid[:, 0]
    for axis, (name, values) in zip(axes, learnt.items(), strict=len(learnt) > 0):
        axis.semilogy(values, linewidth=0.5, alpha=0.35, color="#264653")
        width = min(SMOOTHED, len(values))
        mean = np.convolve(values, np.ones(width) / width, mode="valid")
        axis.semilogy(np.arange(width - 1, len(values)), mean, color="#e76f51")
        axis.set_title(TITLES[name], loc="left", fontsize=10)
        axis.grid(alpha=0.3, which="both")
    axes[-1].set_xlabel("steps")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
