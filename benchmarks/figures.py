"""Figures with the bar that each has to stay under."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.machine import describe


@dataclass(frozen=True)
class Figure:
    """One measured value. `bar` None: it is only printed."""

    name: str
    value: float
    unit: str = ""
    bar: float | None = None

    @property
    def passes(self) -> bool:
        """Is it within the bar?"""
        return self.bar is None or self.value <= self.bar


def table(title: str, figures: Iterable[Figure]) -> Table:
    """A row for each."""
    result = Table("figure", "value", "bar", "", title=title)
    for column in result.columns[1:3]:
        column.justify = "right"
    for figure in figures:
        bar = "" if figure.bar is None else f"{figure.bar:g} {figure.unit}"
        verdict = "" if figure.bar is None else "pass" if figure.passes else "FAIL"
        style = None if figure.passes else "bold red"
        result.add_row(figure.name, f"{figure.value:.4g} {figure.unit}", bar, verdict, style=style)
    return result


def save(path: Path, figures: Sequence[Figure]) -> None:
    """Write them as JSON, with the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{**asdict(figure), "passes": figure.passes} for figure in figures]
    path.write_text(json.dumps({**describe(), "figures": rows}, indent=1) + "\n")
