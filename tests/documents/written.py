"""The command line of what writes a part of a document: write it, or only compare."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path


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
