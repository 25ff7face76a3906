"""A picture of the LAN: latencies by link, pace and peer, and where the time goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no display: must be chosen before pyplot is imported

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.lan.report import Measured
from benchmarks.transport.cells import Conditions
from benchmarks.transport.observations import label

PEER_COLOURS = {
    "ours": "#264653",
    "ours, memory": "#6a994e",
    "ours, JPEG": "#457b9d",
    "ours, JPEG 75": "#8d99ae",
    "ours, broker apart": "#2a9d8f",
    "ours, broker apart, JPEG": "#a8dadc",
    "ours, broker apart, JPEG 75": "#cddafd",
    "sketch": "#bc6c25",
    "openpi": "#e76f51",
    "openpi tuned": "#f4a261",
    "req/rep": "#9d4edd",
    "raw tcp": "#adb5bd",
}
STAGE_COLOURS = {
    "encode": "#e9c46a",
    "robot to broker": "#e76f51",
    "broker to worker": "#f4a261",
    "queue": "#9d4edd",
    "infer": "#264653",
    "decode": "#8ab17d",
    "all else": "#adb5bd",
}


def draw(measured: Sequence[Measured], path: Path) -> None:
    """A column for each link that has latencies; none is drawn where there are none."""
    links = [each for each in measured if each.cells]
    if not links:
        return
    size = next(iter(links[0].cells))[0].size
    figure, rows = plt.subplots(
        2, len(links), figsize=(4.2 * len(links), 8), layout="constrained", squeeze=False
    )
    for column, each in enumerate(links):
        conditions = [c for c in dict.fromkeys(c for c, _ in each.cells) if c.size == size]
        _latencies(rows[0][column], each, conditions)
        # The pace of a control loop, where one was measured.
        paced = [c for c in conditions if c.rate_hz]
        _stages(rows[1][column], each, (paced or conditions)[0])
    for axes in rows.flat:
        axes.grid(axis="y", alpha=0.25)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.use_sticky_edges = False  # else there is no room above stacked bars
        axes.set_ylim(0, None)
    for row, text in zip(rows, ("ms: p50 (bar), p95 (line), p99 (dot)", "ms"), strict=True):
        row[0].set_ylabel(text)
        row[-1].legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, frameon=False)
    figure.suptitle(f"{label(size)}, one robot; policy that answers at once")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _latencies(axes: Axes, measured: Measured, conditions: Sequence[Conditions]) -> None:
    peers = list(dict.fromkeys(peer for _, peer in measured.cells))
    width = 0.8 / len(peers)
    for number, peer in enumerate(peers):
        cells = [measured.cells[each, peer] for each in conditions]
        places = [place - 0.4 + width * (number + 0.5) for place in range(len(cells))]
        p50, p95, p99 = ([cell.p(rank) / 1e3 for cell in cells] for rank in (50, 95, 99))
        axes.bar(places, p50, 0.9 * width, color=PEER_COLOURS[peer], label=peer)
        axes.vlines(places, p50, p95, color="black", linewidth=1.0)
        axes.plot(places, p99, "k.", markersize=4)
    axes.set_xticks(range(len(conditions)), [each.pace for each in conditions])
    axes.set_title(measured.link.name, fontsize=10)


def _stages(axes: Axes, measured: Measured, conditions: Conditions) -> None:
    splits = {
        peer: split
        for (each, peer), cell in measured.cells.items()
        if each == conditions and (split := cell.split_ms)
    }
    below = [0.0] * len(splits)
    for stage, colour in STAGE_COLOURS.items():
        heights = [max(0.0, split.get(stage, 0.0)) for split in splits.values()]
        axes.bar(range(len(splits)), heights, 0.6, bottom=below, color=colour, label=stage)
        below = [a + b for a, b in zip(below, heights, strict=True)]
    axes.set_xticks(range(len(splits)), [peer.replace(", ", "\n") for peer in splits])
    axes.set_title(f"where a usual request's time goes, {conditions.pace}", fontsize=10)
