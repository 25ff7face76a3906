"""Whether something may be written where it was asked for."""

from __future__ import annotations

from pathlib import Path


class Taken(ValueError):
    """Something is there that may not be replaced."""


def refuse_taken(place: Path, force: bool, mark: Path, kind: str) -> None:
    """Nothing happens where nothing is; with `force` also where `mark` shows a `kind` of ours.

    Raises:
        Taken: something else is there.
    """
    if not place.exists() and not place.is_symlink():
        return
    if not force:
        raise Taken(f"{place} exists: name another place, or replace it with --force")
    if place.is_symlink() or not mark.is_file():
        raise Taken(f"{place} is no {kind}, so --force does not replace it: name another place")
