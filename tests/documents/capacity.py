"""`python -m tests.documents.capacity`: writes what was measured into `docs/capacity.md`.

Out of `benchmarks/results/load.json` and `capacity.json`. `--check` only compares, and exits 1 if
the document is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.documents import written

ROOT = Path(__file__).parents[2]
DOCUMENT, RESULTS = ROOT / "docs" / "capacity.md", ROOT / "benchmarks" / "results"

Result = Mapping[str, Any]
_PARTS = {
    "scaling": "Scaling, and the broker's limit",
    "crowd": "Many robots at a slow pace",
    "goodput": "Answers in time, against load",
}


def render(document: str, results: Path) -> str:
    """The document with its measured part replaced.

    Raises:
        ValueError: the document has no place for it.
    """
    lines: list[str] = []
    load, core = _read(results / "load.json"), _read(results / "capacity.json")
    for part, title in _PARTS.items():
        lines += [f"### {title}", "", f"`python -m benchmarks.load --only {part}`", ""]
        lines += [*(_part(part, load[part]) if part in load else ["Not run yet."]), ""]
    lines += ["### The core alone", "", "`python -m benchmarks.capacity`", ""]
    for part in core.values():
        lines += [*_figures(part), "", _when(part), ""]
    if not core:
        lines += ["Not run yet.", ""]
    return written.replace_part(document, "measured", lines[:-1])


def _read(path: Path) -> Result:
    found: Result = json.loads(path.read_text()) if path.exists() else {}
    return found


def _part(name: str, result: Result) -> list[str]:
    shown = _goodput(result) if name == "goodput" else _figures(result)
    return [*shown, "", _when(result)]


def _figures(result: Result) -> list[str]:
    rows = []
    for row in result["figures"]:
        least = "at least " if row["at_least"] else "at most "
        rows.append(
            (
                # What is indented belongs to the figure before it.
                row["name"].replace("  ", "&emsp;", 1) if row["name"][0] == " " else row["name"],
                f"{row['value']:,.4g} {row['unit']}".strip(),
                "" if row["bar"] is None else f"{least}{row['bar']:g} {row['unit']}".strip(),
                "" if row["bar"] is None else "yes" if row["passes"] else "**no**",
            )
        )
    return written.table(("figure", "value", "bar", "met"), rows)


def _goodput(result: Result) -> list[str]:
    ways = list(dict.fromkeys(row["way"] for row in result["curve"]))
    heads = ("load", "robots", "at best", *ways)
    rows = []
    for load in dict.fromkeys(row["load"] for row in result["curve"]):
        found = {row["way"]: row for row in result["curve"] if row["load"] == load}
        shares = [f"{100 * found[way]['in_time']:.1f} %" for way in ways]
        robots = str(found[ways[0]]["robots"])
        rows.append((f"{load:g}", robots, f"{100 * min(1.0, 1.0 / load):.0f} %", *shares))
    judged = [row for row in result["figures"] if row["bar"] is not None]
    return [
        (
            f"{result['workers']} workers of {1e3 * result['inference_s']:.0f} ms; the share of a "
            "robot's moments at which it got an answer that it could still use:"
        ),
        "",
        *written.table(heads, rows),
        "",
        *_figures({"figures": judged}),
        "",
        "![answers in time against load](../benchmarks/results/load.png)",
    ]


def _when(result: Result) -> str:
    told = f"{result['measured'][:10]}, {result['machine']}"
    if result["busy"]:
        cores = f"{result['others_cores']:.1f}"
        return f"({told}; **not to be trusted: other programs kept {cores} cores busy**)"
    return f"({told})"


def main() -> int:
    """Write or check the document."""
    return written.main(
        "python -m tests.documents.capacity",
        __doc__,
        DOCUMENT,
        lambda current: render(current, RESULTS),
    )


if __name__ == "__main__":
    sys.exit(main())
