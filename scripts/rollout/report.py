"""The result of a rollout: a table for people, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from scripts.rollout.actions import End
from scripts.rollout.facts import Facts, Figures
from scripts.rollout.plan import Step


def table(names: tuple[str, str], facts: Facts) -> Table:
    """A column for the old version and one for the new."""
    shown = Table("", *names, box=None, pad_edge=False, header_style="bold")
    for column in shown.columns[1:]:
        column.justify = "right"
    both = facts.stable, facts.candidate
    rows: dict[str, Sequence[str]] = {
        "episodes begun": [str(each.episodes) for each in both],
        "requests": [str(each.requests) for each in both],
        "failed": [_failed(each) for each in both],
        "95 % within, ms": [f"{each.p95_ms:.0f}" if each.timed else "-" for each in both],
        "workers": [str(each.workers) for each in both],
    }
    for name, cells in rows.items():
        shown.add_row(name, *cells)
    shown.add_row("episodes moved", "", str(facts.moved))
    shadow = facts.shadow
    if shadow is not None:
        shown.add_row("asked of both", "", str(shadow.asked))
        shown.add_row("failed of these", "", str(shadow.failures))
        if shadow.largest is not None and shadow.mean is not None:
            shown.add_row("largest difference", "", f"{shadow.largest:.4g}")
            shown.add_row("largest mean difference", "", f"{shadow.mean:.4g}")
        if shadow.other:
            shown.add_row("other difference", "", shadow.other)
        times = f"{shadow.old_p95_ms:.0f}", f"{shadow.new_p95_ms:.0f}"
        shown.add_row("95 % of these within, ms", *times)
    return shown


def save(
    path: Path,
    names: tuple[str, str],
    steps: Sequence[Step],
    facts: Facts,
    end: End,
    pids: Sequence[int],
) -> None:
    """Write all of it.

    Raises:
        OSError: the file cannot be written.
    """
    old, new = names
    content: dict[str, Any] = {
        "stable": old,
        "candidate": new,
        "outcome": end.code.name.lower(),
        "exit_code": int(end.code),
        "reason": end.reason,
        "pids": list(pids),
        "moved": facts.moved,
        "versions": {old: _figures(facts.stable), new: _figures(facts.candidate)},
        "shadow": None if facts.shadow is None else asdict(facts.shadow),
        "steps": [
            {
                "share": step.share,
                "lasted_s": round(step.lasted_s, 1),
                old: _figures(step.stable),
                new: _figures(step.candidate),
            }
            for step in steps
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def _figures(figures: Figures) -> dict[str, Any]:
    return {**asdict(figures), "failed": dict(figures.failed)}


def _failed(figures: Figures) -> str:
    codes = ", ".join(f"{code} {count}" for code, count in sorted(figures.failed.items()))
    return f"{figures.failures} ({codes})" if codes else str(figures.failures)
