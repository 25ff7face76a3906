"""What the transport is held to: our median over another peer's, and what the broker costs."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.transport.cells import Cell, Cells, Conditions
from benchmarks.transport.observations import label

OURS, OPENPI = "ours", "openpi"

# At most so much of openpi's median, by size and rate.
_RATIOS = {
    ("libero", 0.0): 0.62,
    ("camera", 0.0): 0.30,
    ("libero", 50.0): 0.75,
    ("camera", 50.0): 0.38,
}
_CPU_US = 350.0  # of the broker, a request, one robot back to back at 451 KB
_RESIDENT_MB = 100.0  # of the broker, 16 robots at 451 KB
_MANY = 16


def figures(cells: Cells) -> list[Figure]:
    """All that the cells can tell, those with a bar first."""
    found = [*_broker(cells), *_ratios(cells)]
    return sorted(found, key=lambda figure: figure.bar is None)


def ratio_table(cells: Cells) -> Table:
    """Our median over each peer's, one robot, pinned: a row for each size and pace."""
    peers = _peers(cells)
    table = Table("observation", "pace", title="our p50 over that of")
    for peer in peers:
        table.add_column(peer, justify="right")
    for conditions, cell in _ours(cells):
        if _counts(conditions):
            ratios = [_ratio(cells, conditions, cell, peer) for peer in peers]
            shown = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
            table.add_row(label(conditions.size), conditions.pace, *shown)
    return table


def last_line(cells: Cells) -> str:
    """One line for the README; empty where one robot, pinned, was not measured."""
    parts = []
    for size in dict.fromkeys(conditions.size for conditions, _ in cells):
        paces = [
            f"{ratio:.2f} {conditions.pace}"
            for conditions, cell in _ours(cells)
            if conditions.size == size and _counts(conditions)
            if (ratio := _ratio(cells, conditions, cell, OPENPI)) is not None
        ]
        if paces:
            parts.append(f"{label(size)}: {', '.join(paces)}")
    if not parts:
        return ""
    return "p50 through the broker over openpi's direct connection: " + "; ".join(parts)


def _ratios(cells: Cells) -> Iterator[Figure]:
    peers = _peers(cells)
    for conditions, cell in _ours(cells):
        if not _counts(conditions):
            continue
        for peer in peers:
            ratio = _ratio(cells, conditions, cell, peer)
            if ratio is not None:
                key = (conditions.size, conditions.rate_hz)
                bar = _RATIOS.get(key) if peer == OPENPI else None
                name = f"p50 over {peer}'s, {label(conditions.size)}, {conditions.pace}"
                yield Figure(name, ratio, "", bar)


def _broker(cells: Cells) -> Iterator[Figure]:
    for conditions, cell in _ours(cells):
        if conditions.size != "aloha":
            continue
        if _counts(conditions):
            bar = None if conditions.rate_hz else _CPU_US
            name = f"broker's CPU a request, {label('aloha')}, {conditions.pace}"
            yield Figure(name, cell.cpu_us["broker"], "µs", bar)
        if conditions.robots == _MANY:
            name = f"broker's memory, {label('aloha')}, {conditions.setting}, {conditions.pace}"
            yield Figure(name, cell.resident_mb["broker"], "MB", _RESIDENT_MB)


def _ours(cells: Cells) -> Iterator[tuple[Conditions, Cell]]:
    for (conditions, peer), cell in cells.items():
        if peer == OURS:
            yield conditions, cell


def _peers(cells: Cells) -> list[str]:
    return list(dict.fromkeys(peer for _, peer in cells if peer != OURS))


def _counts(conditions: Conditions) -> bool:
    return conditions.robots == 1 and conditions.pinned


def _ratio(cells: Cells, conditions: Conditions, ours: Cell, peer: str) -> float | None:
    other = cells.get((conditions, peer))
    return None if other is None else ours.p(50) / other.p(50)
