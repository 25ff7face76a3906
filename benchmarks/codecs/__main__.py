"""`python -m benchmarks.codecs`: what each image codec does to actions, bytes and time.

Takes a few minutes, needs no GPU. Saves `benchmarks/results/codecs.json`, from which
`python -m tests.documents.codecs` writes the tables of `docs/image_codecs.md`. The simulator's
pictures are rendered through EGL (MUJOCO_GL=egl).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.codecs.actions import MODELS, Change, changes
from benchmarks.codecs.costs import Cost, costs
from benchmarks.machine import describe

RESULTS = Path(__file__).parents[1] / "results" / "codecs.json"


def main() -> int:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codecs", description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    options = parser.parse_args()
    console = Console()
    spent = list(track(costs(), "bytes and time", console=console))
    changed: list[Change] = []
    for model in track(MODELS, "actions", console=console):
        changed += changes(model)
    console.print(_costs(spent), _changes(changed))
    content = {
        **describe(),
        "actions": [asdict(row) for row in changed],
        "costs": [asdict(row) for row in spent],
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")
    return 0


def _changes(rows: list[Change]) -> Table:
    table = Table("codec", *MODELS, title="change of the actions, in standard deviations")
    for codec in dict.fromkeys(row.codec for row in rows):
        found = {row.model: row for row in rows if row.codec == codec}
        table.add_row(
            codec, *(f"{found[model].mean:.4f}" if model in found else "none" for model in MODELS)
        )
    return table


def _costs(rows: list[Cost]) -> Table:
    table = Table("picture", "codec", "bytes", "encode us", "decode us", title="one image")
    for row in rows:
        figures = (f"{row.bytes}", f"{row.encode_us:.0f}", f"{row.decode_us:.0f}")
        table.add_row(f"{row.picture} {row.size}", row.codec, *figures)
    return table


if __name__ == "__main__":
    sys.exit(main())
