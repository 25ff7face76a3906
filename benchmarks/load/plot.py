"""The picture of goodput against load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display: must be chosen before pyplot is imported

from matplotlib import pyplot as plt


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Left the share of wishes answered in time, right what a worker gives that is of use."""
    figure, (share, each) = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    most = 1.0 / found["inference_s"]
    for way in dict.fromkeys(row["way"] for row in found["curve"]):
        rows = [row for row in found["curve"] if row["way"] == way]
        loads = [row["load"] for row in rows]
        share.plot(loads, [100.0 * row["in_time"] for row in rows], marker="o", label=way)
        each.plot(loads, [row["goodput_per_worker_per_s"] for row in rows], marker="o", label=way)
    loads = sorted({row["load"] for row in found["curve"]})
    share.plot(loads, [100.0 * min(1.0, 1.0 / load) for load in loads], "k:", label="at best")
    each.plot(loads, [most * min(1.0, load) for load in loads], "k:", label="at best")
    share.set(ylabel="answered in time (%)", ylim=(0, 105))
    each.set(ylabel="answers in time, a worker and second", ylim=(0, 1.05 * most))
    for axes in (share, each):
        axes.set(xlabel="wished for, times what the workers can")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*share.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
