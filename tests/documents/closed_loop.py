"""`python -m tests.documents.closed_loop`: writes what was measured into `docs/robot_loop.md`.

Out of `benchmarks/results/closed_loop.json` and `closed_loop_tiny.json`. `--check` only compares,
and exits 1 if the document is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.documents import written

ROOT = Path(__file__).parents[2]
DOCUMENT, RESULTS = ROOT / "docs" / "robot_loop.md", ROOT / "benchmarks" / "results"
EXPERT, TINY = RESULTS / "closed_loop.json", RESULTS / "closed_loop_tiny.json"
SHOWN_LINK = "200 ms"

Row = dict[str, Any]


def render(document: str, expert: Path, tiny: Path) -> str:
    """The document with its tables replaced.

    Raises:
        ValueError: the document has no place for them.
    """
    planned, learnt = rows_of(expert), rows_of(tiny)
    lines = [
        f"The scripted expert at {SHOWN_LINK}, {planned[0]['episodes']} episodes a cell:",
        "",
        *_one_link(planned),
        "",
        "The tiny model: in how many it handed the cube over, time until done, seam / inside:",
        "",
        *_all_links(learnt),
    ]
    return written.replace_part(document, "closed loop", lines)


def rows_of(result: Path) -> list[Row]:
    """A row for each link and method."""
    rows: list[Row] = json.loads(result.read_text())["rows"]
    return rows


def seam_ratio(row: Row) -> float:
    """Jump at seams over the change from step to step inside of chunks."""
    return float(row["seam_jump_rad"] / row["inside_change_rad"])


def _one_link(rows: Sequence[Row]) -> list[str]:
    columns = ("", "handed over", "done after", "starved steps", "age of observation")
    cells = [
        (
            row["method"],
            f"{row['successes']} of {row['episodes']}",
            _seconds(row),
            f"{row['starved_steps']:.0f}",
            f"{row['age_ms']:.0f} ms",
            f"{seam_ratio(row):.2f}",
            f"{row['seam_jerk'] / row['inside_jerk']:.1f}",
        )
        for row in rows
        if row["link"] == SHOWN_LINK
    ]
    return written.table((*columns, "seam / inside", "jerk at seam / inside"), cells)


def _all_links(rows: Sequence[Row]) -> list[str]:
    links = list(dict.fromkeys(row["link"] for row in rows))
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        cells = {row["link"]: row for row in rows if row["method"] == method}
        lines.append((method, *(_cell(cells[link]) for link in links)))
    return written.table(("", *links), lines)


def _cell(row: Row) -> str:
    return f"{row['successes']}/{row['episodes']}, {_seconds(row)}, {seam_ratio(row):.2f}"


def _seconds(row: Row) -> str:
    return "never" if row["seconds_to_done"] is None else f"{row['seconds_to_done']:.2f} s"


def main() -> int:
    """Write or check the document."""
    return written.main(
        "python -m tests.documents.closed_loop",
        __doc__,
        DOCUMENT,
        lambda current: render(current, EXPERT, TINY),
    )


if __name__ == "__main__":
    sys.exit(main())
