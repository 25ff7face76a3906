"""A picture of a model's latency and throughput over the batch size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display: must be chosen before pyplot is imported

from matplotlib import pyplot as plt

from benchmarks.model.stages import ANSWER_TOKENS

COLOURS = {"vision": "#8ab17d", "prefix": "#264653", "denoising": "#e76f51", "token": "#e9c46a"}


def draw(result: dict[str, Any], path: Path) -> None:
    """Stages stacked to a latency, the floor beside them, and chunks a second."""
    rows = {(row["batch"], row["stage"]): row for row in result["rows"]}
    batches = sorted({row["batch"] for row in result["rows"] if row["stage"] == "whole"})
    places = range(len(batches))
    whole = [rows[batch, "whole"]["ms"] for batch in batches]
    floor = [rows[batch, "whole"]["floor_ms"] for batch in batches]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    below = [0.0] * len(batches)
    present = {stage for _, stage in rows}
    for stage, colour in COLOURS.items():
        if stage not in present:
            continue
        times, label = (
            (ANSWER_TOKENS, f"{ANSWER_TOKENS} tokens") if stage == "token" else (1, stage)
        )
        taken = [times * rows[batch, stage]["ms"] for batch in batches]
        left.bar(places, taken, 0.6, bottom=below, color=colour, label=label)
        below = [a + b for a, b in zip(below, taken, strict=True)]
    left.plot(places, whole, "ko", label="whole, as a worker runs it")
    left.plot(places, floor, "k_", markersize=30, label="floor")
    left.set(xlabel="batch", ylabel="latency, ms", ylim=(0, None))
    left.legend(frameon=False)
    for values, style, label in ((whole, "o-", "measured"), (floor, "_--", "floor")):
        rates = [1e3 * batch / ms for batch, ms in zip(batches, values, strict=True)]
        right.plot(places, rates, style, color="black", label=label)
    right.set(xlabel="batch", ylabel="chunks a second", ylim=(0, None))
    right.legend(frameon=False)
    for axes in (left, right):
        axes.set_xticks(places, [str(batch) for batch in batches])
    figure.suptitle(f"{result['settings']['model']}, {result['dtype']}, {result['device']}")
    figure.savefig(path, dpi=120)
    plt.close(figure)
