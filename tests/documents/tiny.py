"""`python -m tests.documents.tiny`: writes into `docs/tiny_model.md` how often the model succeeds.

Out of `benchmarks/results/tiny.json`, the `table.json` of `scripts.tiny.evaluate`. `--check` only
compares, and exits 1 if the document is out of date.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.documents import written
from worker.checkpoints.layout import WEIGHTS_FILE
from worker.checkpoints.shipped import DESCRIPTION, FOLDER

ROOT = Path(__file__).parents[2]
DOCUMENT, RESULT = ROOT / "docs" / "tiny_model.md", ROOT / "benchmarks" / "results" / "tiny.json"

Row = Mapping[str, Any]
TOLD = {
    "50 actions": "50 actions of each chunk",
    "25 actions": "25 actions",
    "10 actions": "10 actions",
    "10 actions, same noise": "10 actions, every chunk from the same noise",
    "5 steps": "5 flow steps instead of 10",
    "3 steps": "3 flow steps",
    "1 step": "1 flow step",
    "bfloat16": "bfloat16 (the other rows: float32)",
    "batches of 4": "batches of 4",
    "JPEG 95": "images through JPEG, quality 95",
    "JPEG 90": "images through JPEG, quality 90",
    "JPEG 75": "quality 75",
    "JPEG 50": "quality 50",
    "worker dies": "a worker killed in mid-episode",
    "broker restarts": "the broker killed and restarted in mid-episode",
    "black images": "black images",
    "wrong prompt": "the other task's prompt",
}
"""Each condition as the document names it, in the order of its rows."""


def render(document: str, result: Path) -> str:
    """The document with its table replaced.

    Raises:
        ValueError: the document has no place for it, or the result is of other weights.
    """
    found = json.loads(result.read_text())
    shipped = json.loads((FOLDER / DESCRIPTION).read_text())["sha256"][WEIGHTS_FILE]
    if found["weights"] != shipped:
        raise ValueError(f"{result} is of other weights than those that ship: evaluate these")
    rows = {(row["task"], row["condition"]["name"]): row for row in found["rows"]}
    lines = [
        (
            told,
            _share(rows.get(("transfer", name)), "success"),
            _share(rows.get(("transfer", name)), "let_go"),
            _share(rows.get(("insertion", name)), "success"),
        )
        for name, told in TOLD.items()
        if {("transfer", name), ("insertion", name)} & set(rows)
    ]
    heads = ("", "cube handed over", "and let go", "peg inserted")
    return written.replace_part(document, "successes", written.table(heads, lines))


def _share(row: Row | None, what: str) -> str:
    if row is None:
        return ""
    share = row[what]
    bounds = f"{100 * share['low']:.0f} to {100 * share['high']:.0f} %"
    return f"{share['successes']} of {share['of']} ({bounds})"


def main() -> int:
    """Write or check the document."""
    return written.main(
        "python -m tests.documents.tiny", __doc__, DOCUMENT, lambda text: render(text, RESULT)
    )


if __name__ == "__main__":
    sys.exit(main())
