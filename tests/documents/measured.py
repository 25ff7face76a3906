"""`python -m tests.documents.measured`: writes what was measured into `docs/measurements.md`.

Out of `benchmarks/results/`, so that the document never says what no run has shown. `--check` only
compares, and exits 1 if the document is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from tests.documents import written

ROOT = Path(__file__).parents[2]
DOCUMENT, RESULTS = ROOT / "docs" / "measurements.md", ROOT / "benchmarks" / "results"

Result = Mapping[str, Any]
_PARTS = {
    "worker": "A worker is killed",
    "broker": "The broker is killed and restarted",
    "load": "Many clients for a minute, without and with deaths",
    "peers": "One bad peer among robots",
    "two brokers": "One of two brokers is killed or restarted",
}


def _faults(result: Result) -> list[str]:
    lines = []
    for part, title in _PARTS.items():
        if part not in result:
            continue
        rows = [
            (
                # What is indented belongs to the figure before it.
                row["name"].replace("  ", "&emsp;", 1) if row["name"][0] == " " else row["name"],
                f"{row['value']:.4g} {row['unit']}".strip(),
                "" if row["bar"] is None else f"{row['bar']:g} {row['unit']}".strip(),
                "" if row["bar"] is None else "yes" if row["passes"] else "**no**",
            )
            for row in result[part]["figures"]
        ]
        lines += [f"**{title}** ({_when(result[part])})", ""]
        lines += [*written.table(("figure", "value", "at most", "met"), rows), ""]
    return lines[:-1]


def _bars(result: Result) -> list[str]:
    rows = [
        (
            row["name"],
            f"{row['value']:.3g} {row['unit']}".strip(),
            f"{'at least' if row['at_least'] else 'at most'} {row['bar']:g}",
            "yes" if Figure(**row).passes else "**no**",
        )
        for row in result["figures"]
        if row["bar"] is not None
    ]
    return [*written.table(("figure", "value", "bar", "met"), rows), "", f"({_when(result)})"]


def _chaos(result: Result) -> list[str]:
    summary, after = result["under_faults"], result["afterwards"]
    errors = _counts(summary["errors"]) or "none"
    faults = _counts(result["faults"])
    asked = f"{summary['requests']:,} requests of {result['plan']['robots']} robots"
    inflicted = f"{sum(result['faults'].values())} faults ({faults})"
    return [
        (
            f"{asked} to {result['plan']['workers']} workers in {result['seconds']:.0f} s, under "
            f"{inflicted}: {summary['right']:,} answered right, "
            f"wrong {summary['wrong']}, lost {summary['lost']}, late {summary['late']}; errors: "
            f"{errors}. Afterwards {after['right']} of {after['requests']} were answered right and "
            f"{result['workers_back']} workers were ready. ({_when(result)})"
        )
    ]


def _simulation(result: Result) -> list[str]:
    answers = sum(result["answers"].values())
    return [
        (
            f"{result['seeds']:,} seeds, {result['events']:,} events of the core, "
            f"{answers:,} final answers, {result['simulated_s']:,} simulated "
            f"seconds in {result['seconds']:,.0f} s: no invariant violated. ({_when(result)})"
        )
    ]


def _fuzz(result: Result) -> list[str]:
    rows = [
        (
            target,
            f"{each['executions']:,}",
            f"{each['seconds'] / 60:.0f} min",
            f"{each['coverage']}",
            f"{len(each['crashes'])}",
        )
        for target, each in result.items()
    ]
    return written.table(("target", "inputs", "time", "edges reached", "crashes"), rows)


def _scheduling(result: Result) -> list[str]:
    rows = [
        (f"{r['robots']:,}", f"{r['workers']}", f"{r['median_us']:.0f}", _beats(r))
        for r in result["rows"]
    ]
    heads = ("robots", "workers", "µs a request", "of it heartbeats")
    largest = result["rows"][-1]  # the only row that the bar is for
    bar = (
        f"At {largest['robots']:,} robots and {largest['workers']} workers at most "
        f"{result['bar_us']:g} µs. ({_when(result)})"
    )
    return [*written.table(heads, rows), "", bar]


def _beats(row: Result) -> str:
    return f"{row['heartbeats_us']:.0f}" if "heartbeats_us" in row else ""


# File: title, the command that measures it, and how it is shown.
_SECTIONS: Mapping[str, tuple[str, str, Callable[[Result], list[str]]]] = {
    "transport": (
        "On one host: what has a bar",
        "python -m benchmarks.transport --headline --sizes libero camera --congestion usual",
        _bars,
    ),
    "lan-10hz": (
        "On a LAN: what has a bar",
        (
            "python -m benchmarks.lan --links 1g 100m --only turns --rates 10 "
            "--json benchmarks/results/lan-10hz.json"
        ),
        _bars,
    ),
    "faults": ("Faults, load and bad peers", "python -m benchmarks.faults", _faults),
    "chaos": ("Chaos", "python -m tests.chaos", _chaos),
    "simulation": (
        "Simulation",
        "python -m tests.simulation --seeds 100000 --result benchmarks/results/simulation.json",
        _simulation,
    ),
    "fuzz": ("Fuzzing", "python -m tests.fuzz --minutes 30", _fuzz),
    "scheduling": ("Scheduling", "python -m benchmarks.scheduling", _scheduling),
}


def render(document: str, results: Path) -> str:
    """The document with its measured part replaced.

    Raises:
        ValueError: the document has no place for it.
    """
    lines: list[str] = []
    for name, (title, command, show) in _SECTIONS.items():
        path = results / f"{name}.json"
        shown = show(json.loads(path.read_text())) if path.exists() else ["Not run yet."]
        lines += [f"### {title}", "", f"`{command}`", "", *shown, ""]
    return written.replace_part(document, "measured", lines[:-1])


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


def _when(result: Result) -> str:
    return f"{result['measured'][:10]}, {result['machine']}" if "measured" in result else "undated"


def main() -> int:
    """Write or check the document."""
    return written.main(
        "python -m tests.documents.measured",
        __doc__,
        DOCUMENT,
        lambda current: render(current, RESULTS),
    )


if __name__ == "__main__":
    sys.exit(main())
