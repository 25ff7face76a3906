"""What one peer has shown under one set of conditions, gathered over its turns."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.figures import Figure
from benchmarks.machine import describe
from benchmarks.transport.observations import label
from benchmarks.transport.teams import Result
from benchmarks.versions import versions
from scripts.local.timing import mean, percentile

RANKS = (50, 95, 99)
_USUAL = (0.4, 0.6)  # ranks of the requests whose stages are shown


@dataclass(frozen=True)
class Conditions:
    """Under what a peer was measured."""

    robots: int
    pinned: bool
    size: str
    rate_hz: float  # of each robot; 0: back to back
    congestion: str = ""  # TCP's congestion control; empty: not looked at

    @property
    def pace(self) -> str:
        """For people: `back to back`, `50 Hz`."""
        return f"{self.rate_hz:g} Hz" if self.rate_hz else "back to back"

    @property
    def setting(self) -> str:
        """For people: how many robots, and where they run."""
        robots = "1 robot" if self.robots == 1 else f"{self.robots} robots"
        where = "robots on one core, the rest on another" if self.pinned else "not pinned"
        return f"{robots}, {where}" + (f", {self.congestion}" if self.congestion else "")


@dataclass
class Cell:
    """A peer's turns under the same conditions."""

    turns: list[Result] = field(default_factory=list)

    def p(self, rank: float) -> float:
        """The percentile of all latencies, in microseconds."""
        return percentile(rank)([each for turn in self.turns for each in turn.latencies_us])

    @property
    def requests_per_s(self) -> float:
        """Of all robots together, the mean of the turns."""
        return mean([turn.requests_per_s for turn in self.turns])

    @property
    def cpu_us(self) -> dict[str, float]:
        """CPU microseconds a request, by process, the mean of the turns."""
        names = self.turns[0].cpu_us
        return {name: mean([turn.cpu_us[name] for turn in self.turns]) for name in names}

    @property
    def split_ms(self) -> dict[str, float]:
        """Where a usual request's time goes; empty where the robots did not tell.

        The mean of those around the median, whose stages add up.
        """
        told = [stages for turn in self.turns for stages in turn.stages_ms]
        told.sort(key=lambda stages: sum(stages.values()))
        first, last = (rank * len(told) for rank in _USUAL)
        usual = told[math.floor(first) : math.ceil(last)]
        return {stage: mean([each[stage] for each in usual]) for stage in (usual or [{}])[0]}

    @property
    def resident_mb(self) -> dict[str, float]:
        """The servers' memory after the last turn."""
        return self.turns[-1].resident_mb

    @property
    def others_cores(self) -> float:
        """Cores that other processes kept busy meanwhile, the mean of the turns."""
        return mean([turn.others_cores for turn in self.turns])

    def summary(self) -> dict[str, Any]:
        """For the results file; microseconds rounded to a tenth."""
        split = self.split_ms
        return {
            "requests": sum(len(turn.latencies_us) for turn in self.turns),
            **{f"p{rank}_us": round(self.p(rank), 1) for rank in RANKS},
            "requests_per_s": round(self.requests_per_s, 1),
            "cpu_us": {name: round(value, 1) for name, value in self.cpu_us.items()},
            "resident_mb": {name: round(value, 1) for name, value in self.resident_mb.items()},
            "others_cores": round(self.others_cores, 3),
            **({"split_ms": {k: round(v, 3) for k, v in split.items()}} if split else {}),
        }


Cells = dict[tuple[Conditions, str], Cell]


def others_cores(cells: Cells) -> float:
    """Cores that others kept busy over the whole measurement."""
    return mean([cell.others_cores for cell in cells.values()])


def save(path: Path, cells: Cells, figures: Sequence[Figure], last_line: str) -> None:
    """Write all that was measured as JSON, with the machine and the versions."""
    content = {
        **describe(),
        **versions(),
        "others_cores": round(others_cores(cells), 3),
        "last_line": last_line,
        "figures": [asdict(figure) for figure in figures],
        "cells": [
            {**asdict(conditions), "peer": peer, **cell.summary()}
            for (conditions, peer), cell in cells.items()
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def tables(cells: Cells) -> list[Table]:
    """A table for each number of robots and placement, with a section for each size and pace."""
    by_setting: dict[str, Table] = {}
    section: tuple[str, str] | None = None
    for (conditions, peer), cell in cells.items():
        setting = conditions.setting
        if setting not in by_setting:
            by_setting[setting] = _empty(setting)
        table, heading = by_setting[setting], (label(conditions.size), conditions.pace)
        first = heading != section
        if first:
            table.add_section()
        section = heading
        cpu = cell.cpu_us
        table.add_row(
            *(heading if first else ("", "")),
            peer,
            *(f"{cell.p(rank):.0f}" for rank in RANKS),
            f"{cell.requests_per_s:.0f}",
            " + ".join(f"{value:.0f} {name}" for name, value in cpu.items()),
            style="bold" if peer.startswith("ours") else None,
        )
    return list(by_setting.values())


def _empty(title: str) -> Table:
    table = Table(title=f"{title}; p50 to p99 in µs", padding=(0, 1, 0, 0), title_justify="left")
    for name in ("observation", "pace", "peer"):
        table.add_column(name, no_wrap=True)
    for name in (*(f"p{rank}" for rank in RANKS), "req/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("CPU µs a request")
    return table
