"""What was measured on each link: tables, ratios, and the results file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.lan.links import LINKS, Link
from benchmarks.lan.outage import Outage
from benchmarks.machine import describe
from benchmarks.transport.bars import OPENPI, OURS
from benchmarks.transport.cells import RANKS, Cell, Cells, Conditions, others_cores
from benchmarks.transport.observations import label
from benchmarks.versions import versions

# At most so much of openpi's median, which sends its images as they are: 451 KB at 10 Hz. The first
# are of the client's usual quality, 95.
_BARS = {
    (LINKS[link].name, f"{way}{quality}"): bar
    for link, way, bar in (
        ("1g", "ours, JPEG", 0.45),
        ("100m", "ours, JPEG", 0.25),
        ("100m", "ours, broker apart, JPEG", 0.4),
    )
    for quality in ("", " 75")
}


@dataclass
class Measured:
    """On one link. `kind` is what it was made of."""

    link: Link
    kind: str
    cells: Cells = field(default_factory=dict)
    outages: list[Outage] = field(default_factory=list)


def save(path: Path, measured: Sequence[Measured], congestion: str) -> None:
    """Write all of it as JSON, with the machine and the versions."""
    cells = _all_cells(measured)
    content = {
        **describe(),
        **versions(),
        "congestion_control": congestion,
        "others_cores": round(others_cores(cells), 3) if cells else None,
        "ratios": ratios(measured),
        "figures": [asdict(figure) for figure in figures(measured)],
        "links": [{**asdict(each.link), "kind": each.kind} for each in measured],
        "cells": [
            {"link": each.link.name, **asdict(conditions), "peer": peer, **cell.summary()}
            for each in measured
            for (conditions, peer), cell in each.cells.items()
        ],
        "outages": [
            {"link": each.link.name, **asdict(outage)}
            for each in measured
            for outage in each.outages
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _all_cells(measured: Sequence[Measured]) -> Cells:
    """For figures over all: those of different links stay apart by their number."""
    return {
        (conditions, f"{peer} {number}"): cell
        for number, each in enumerate(measured)
        for (conditions, peer), cell in each.cells.items()
    }


def others(measured: Sequence[Measured]) -> float:
    """Cores that other processes kept busy over all of it."""
    cells = _all_cells(measured)
    return others_cores(cells) if cells else 0.0


def latency_table(measured: Measured) -> Table:
    """Milliseconds, a section for each size and pace."""
    table = Table(title=f"{measured.link.name} ({measured.kind}); ms", padding=(0, 1, 0, 0))
    table.title_justify = "left"
    for name in ("observation", "pace", "peer"):
        table.add_column(name, no_wrap=True)
    for name in (*(f"p{rank}" for rank in RANKS), "req/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("where a usual request's time goes")
    section: Conditions | None = None
    for (conditions, peer), cell in measured.cells.items():
        first = conditions != section
        if first:
            table.add_section()
        section = conditions
        table.add_row(
            *((label(conditions.size), conditions.pace) if first else ("", "")),
            peer,
            *(f"{cell.p(rank) / 1e3:.2f}" for rank in RANKS),
            f"{cell.requests_per_s:.0f}",
            ", ".join(f"{stage} {ms:.2f}" for stage, ms in cell.split_ms.items()),
            style="bold" if peer.startswith(OURS) else None,
        )
    return table


def ratios(measured: Sequence[Measured]) -> list[str]:
    """A line for each link and each way of ours: its medians over openpi's."""
    return [line for each in measured for line in _ratios(each)]


def _ratios(measured: Measured) -> Iterator[str]:
    ways = dict.fromkeys(peer for _, peer in measured.cells if peer.startswith(OURS))
    for way in ways:
        parts = [
            f"{label(conditions.size)} {conditions.pace} {_ratio(cell, measured.cells[key]):.2f}"
            for (conditions, peer), cell in measured.cells.items()
            if peer == way and (key := (conditions, OPENPI)) in measured.cells
        ]
        if parts:
            yield f"{measured.link.name}: p50 of {way} over openpi's: {', '.join(parts)}"


def figures(measured: Sequence[Measured]) -> list[Figure]:
    """The ratios that have a bar."""
    found = []
    for each in measured:
        for (conditions, way), cell in each.cells.items():
            bar = _BARS.get((each.link.name, way))
            theirs = each.cells.get((conditions, OPENPI))
            is_it = (conditions.size, conditions.rate_hz) == ("aloha", 10.0)
            if bar is not None and theirs is not None and is_it:
                where = f"{label(conditions.size)}, {conditions.pace}, {each.link.name}"
                name = f"p50 of {way} over {OPENPI}'s, {where}"
                found.append(Figure(name, _ratio(cell, theirs), "", bar))
    return found


def _ratio(ours: Cell, theirs: Cell) -> float:
    return ours.p(50) / theirs.p(50)
