"""`python -m tests.documents.codecs`: writes what was measured into `docs/image_codecs.md`.

Out of `benchmarks/results/codecs.json`. `--check` only compares, and exits 1 if the document is
out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tests.documents import written

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "image_codecs.md"
RESULT = ROOT / "benchmarks" / "results" / "codecs.json"

Row = dict[str, Any]


def render(document: str, result: Path) -> str:
    """The document with its tables replaced.

    Raises:
        ValueError: the document has no place for them.
    """
    content = json.loads(result.read_text())
    when = f"({content['measured'][:10]}, {content['machine']})"
    lines = [
        f"Change of the actions, in thousandths of a standard deviation {when}:",
        "",
        *_actions(content["actions"]),
        "",
        f"One image: kilobytes, and microseconds of one core to encode and to decode it {when}:",
        "",
        *_costs(content["costs"]),
    ]
    return written.replace_part(document, "codecs", lines)


def _actions(rows: Sequence[Row]) -> list[str]:
    models = _distinct(row["model"] for row in rows)
    lines = []
    for codec in _distinct(row["codec"] for row in rows):
        cells = {row["model"]: row for row in rows if row["codec"] == codec}
        lines.append((codec, *(_change(cells.get(model)) for model in models)))
    return written.table(("codec", *models), lines)


def _change(row: Row | None) -> str:
    if row is None:
        return "none"
    if row["exact"] == row["observations"]:
        return "0"
    return f"{1e3 * row['mean']:.2f}"


def _costs(rows: Sequence[Row]) -> list[str]:
    pictures = _distinct((row["picture"], row["size"]) for row in rows)
    lines = []
    for codec in _distinct(row["codec"] for row in rows):
        cells = {(r["picture"], r["size"]): r for r in rows if r["codec"] == codec}
        lines.append((codec, *(_cost(cells[picture]) for picture in pictures)))
    heads = (f"{picture}, {size}" for picture, size in pictures)
    return written.table(("codec", *heads), lines)


def _cost(row: Row) -> str:
    size = f"{row['bytes'] / 1e3:.1f} KB"
    if not row["encode_us"]:
        return size
    return f"{size}, {row['encode_us']:.0f} + {row['decode_us']:.0f}"


def _distinct(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def main() -> int:
    """Write or check the document."""
    return written.main(
        "python -m tests.documents.codecs",
        __doc__,
        DOCUMENT,
        lambda current: render(current, RESULT),
    )


if __name__ == "__main__":
    sys.exit(main())
