"""What the transport is held to: our medians over another peer's, and what the broker costs."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.transport.cells import Cell, Cells, Conditions
from benchmarks.transport.observations import label

OURS, MEMORY, OPENPI, SKETCH = "ours", "ours, memory", "openpi", "sketch"

# At most so much of the other's median: one of ours, the other, size and rate.
_RATIOS = {
    (OURS, SKETCH, "libero", 0.0): 1.15,
    (OURS, SKETCH, "libero", 50.0): 1.15,
    (OURS, OPENPI, "libero", 0.0): 0.65,
    (OURS, OPENPI, "libero", 50.0): 0.9,
    (OURS, OPENPI, "camera", 0.0): 0.30,
    (OURS, OPENPI, "camera", 50.0): 0.38,
    (MEMORY, OPENPI, "libero", 50.0): 0.6,
    (MEMORY, OPENPI, "camera", 0.0): 0.12,
}
# At least so many of openpi's answers a second: robots that ask back to back, not pinned.
_THROUGHPUTS = {(OURS, "libero"): 0.9, (MEMORY, "libero"): 1.3}
_CPU = {("libero", 0.0): 1.2}  # the broker's, over the sketch's
_CPU_US = 350.0  # of the broker, a request, one robot back to back at 451 KB
_RESIDENT_MB = 100.0  # of the broker, 16 robots at 451 KB
_MANY = 16


def is_ours(peer: str) -> bool:
    """Whether our broker is between."""
    return peer.startswith(OURS)


def figures(cells: Cells) -> list[Figure]:
    """All that the cells can tell, those with a bar first."""
    found = [*_ratios(cells), *_throughputs(cells), *_broker(cells)]
    return sorted(found, key=lambda figure: figure.bar is None)


def ratio_tables(cells: Cells) -> list[Table]:
    """Of each way of ours its median over each other peer's, one robot, pinned."""
    others = _others(cells)
    tables = []
    for way in dict.fromkeys(peer for _, peer in cells if is_ours(peer)):
        table = Table("observation", "pace", "congestion", title=f"p50 of {way} over that of")
        for other in others:
            table.add_column(other, justify="right")
        for conditions, cell in _of(cells, way):
            if others and _counts(conditions):
                ratios = [_ratio(cells, conditions, cell, other) for other in others]
                shown = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
                where = (label(conditions.size), conditions.pace, conditions.congestion)
                table.add_row(*where, *shown)
        if table.row_count:
            tables.append(table)
    return tables


def last_line(cells: Cells) -> str:
    """Our way by bytes over openpi's; empty where one robot, pinned, was not measured."""
    parts = []
    for size, congestion in dict.fromkeys((each.size, each.congestion) for each, _ in cells):
        paces = [
            f"{ratio:.2f} {conditions.pace}"
            for conditions, cell in _of(cells, OURS)
            if (conditions.size, conditions.congestion) == (size, congestion)
            if _counts(conditions)
            if (ratio := _ratio(cells, conditions, cell, OPENPI)) is not None
        ]
        if paces:
            parts.append(f"{_with(label(size), congestion)}: {', '.join(paces)}")
    if not parts:
        return ""
    return "p50 through the broker over openpi's direct connection: " + "; ".join(parts)


def _ratios(cells: Cells) -> Iterator[Figure]:
    for (conditions, way), cell in cells.items():
        if not is_ours(way) or not _counts(conditions):
            continue
        for other in _others(cells):
            ratio = _ratio(cells, conditions, cell, other)
            if ratio is not None:
                bar = _RATIOS.get((way, other, conditions.size, conditions.rate_hz))
                yield Figure(f"p50 of {way} over {other}'s, {_where(conditions)}", ratio, "", bar)


def _throughputs(cells: Cells) -> Iterator[Figure]:
    for (conditions, way), cell in cells.items():
        theirs = cells.get((conditions, OPENPI))
        at_saturation = conditions.robots == _MANY and not conditions.rate_hz
        if is_ours(way) and theirs is not None and at_saturation and not conditions.pinned:
            ratio = cell.requests_per_s / theirs.requests_per_s
            bar = _THROUGHPUTS.get((way, conditions.size))
            name = f"answers a second of {way} over {OPENPI}'s, {_MANY} robots, "
            yield Figure(name + _where(conditions), ratio, "", bar, at_least=True)


def _broker(cells: Cells) -> Iterator[Figure]:
    for conditions, cell in _of(cells, OURS):
        sketch = cells.get((conditions, SKETCH))
        if _counts(conditions):
            cpu_us, where = cell.cpu_us["broker"], _where(conditions)
            if sketch is not None:
                ratio, bar = cpu_us / sketch.cpu_us["broker"], _CPU.get(_key(conditions))
                yield Figure(f"broker's CPU a request over {SKETCH}'s, {where}", ratio, "", bar)
            bar = _CPU_US if _key(conditions) == ("aloha", 0.0) else None
            yield Figure(f"broker's CPU a request, {where}", cpu_us, "µs", bar)
        if conditions.size == "aloha" and conditions.robots == _MANY:
            name = f"broker's memory, {label('aloha')}, {conditions.setting}, {conditions.pace}"
            yield Figure(name, cell.resident_mb["broker"], "MB", _RESIDENT_MB)


def _of(cells: Cells, way: str) -> Iterator[tuple[Conditions, Cell]]:
    for (conditions, peer), cell in cells.items():
        if peer == way:
            yield conditions, cell


def _others(cells: Cells) -> list[str]:
    return list(dict.fromkeys(peer for _, peer in cells if not is_ours(peer)))


def _counts(conditions: Conditions) -> bool:
    return conditions.robots == 1 and conditions.pinned


def _key(conditions: Conditions) -> tuple[str, float]:
    return conditions.size, conditions.rate_hz


def _where(conditions: Conditions) -> str:
    return _with(f"{label(conditions.size)}, {conditions.pace}", conditions.congestion)


def _with(what: str, congestion: str) -> str:
    return f"{what}, {congestion}" if congestion else what


def _ratio(cells: Cells, conditions: Conditions, ours: Cell, peer: str) -> float | None:
    other = cells.get((conditions, peer))
    return None if other is None else ours.p(50) / other.p(50)
