"""A part of a document that a command writes: its marks, its tables, and the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path


def replace_part(document: str, name: str, lines: Iterable[str]) -> str:
    """The document with the lines between the marks of this name replaced.

    Raises:
        ValueError: the document has no such marks.
    """
    begin, end = (f"<!-- {name}: {side} -->" for side in ("begin", "end"))
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the document has no marks for {name!r}: {begin} and {end}")
    return "\n".join([f"{before}{begin}", *lines, f"{end}{after}"])


def table(heads: Sequence[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a table."""
    cells = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(row)} |" for row in cells]


def main(
    command: str, description: str | None, document: Path, render: Callable[[str], str]
) -> int:
    """`render` gives the document as it should be; `--check` exits 1 if it is not so already."""
    parser = argparse.ArgumentParser(
        prog=command,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="compare only")
    options = parser.parse_args()
    current = document.read_text()
    rendered = render(current)
    if options.check:
        return int(rendered != current)
    document.write_text(rendered)
    return 0
