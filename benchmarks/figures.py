"""Figures with the bar that each has to stay under."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.machine import describe


@dataclass(frozen=True)
class Figure:
    """One measured value. `bar` None: it is only printed; `at_least`: it must not stay below."""

    name: str
    value: float
    unit: str = ""
    bar: float | None = None
    at_least: bool = False

    @property
    def passes(self) -> bool:
        """Is it within the bar?"""
        if self.bar is None:
            return True
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def table(title: str, figures: Iterable[Figure]) -> Table:
    """A row for each."""
    result = Table("figure", "value", "bar", "", title=title)
    for column in result.columns[1:3]:
        column.justify = "right"
    for figure in figures:
        least = "at least " if figure.at_least else ""
        bar = "" if figure.bar is None else f"{least}{figure.bar:g} {figure.unit}"
        held = "" if figure.bar is None else "pass" if figure.passes else "FAIL"
        style = None if figure.passes else "bold red"
        result.add_row(figure.name, f"{figure.value:.4g} {figure.unit}", bar, held, style=style)
    return result


def save(
    path: Path, part: str, figures: Sequence[Figure], more: Mapping[str, object] | None = None
) -> None:
    """Write one part of a results file as JSON, with the machine and `more`; other parts stay."""
    known = json.loads(path.read_text()) if path.exists() else {}
    rows = [{**asdict(figure), "passes": figure.passes} for figure in figures]
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**known, part: {**describe(), **(more or {}), "figures": rows}}
    path.write_text(json.dumps(content, indent=1) + "\n")
