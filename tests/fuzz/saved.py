"""The saved corpus: inputs that together reach all the code that fuzzing has reached."""

from __future__ import annotations

from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def inputs(target: str) -> list[Path]:
    """The files of one target's corpus, in a fixed order."""
    return sorted(path for path in (CORPUS / target).iterdir() if path.is_file())
