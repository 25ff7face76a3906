"""Episodes in a file, so that a comparison that was stopped goes on where it was."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.closed_loop.episodes import Record

Key = tuple[str, str, str, int]
"""Digest of the policy, names of link and method, and a seed."""


class Archive:
    """One JSON line for each episode."""

    def __init__(self, path: Path | None) -> None:
        """Read what `path` holds already; None: remember for this run only.

        Raises:
            ValueError: it is no file of episodes.
        """
        self._path = path
        self._known: dict[Key, Record] = {}
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                digest, link, method, seed, told = json.loads(line)
                told["actions"] = [np.array(action) for action in told["actions"]]
                self._known[digest, link, method, seed] = Record(**told)
            except (ValueError, TypeError, KeyError):
                raise ValueError(
                    f"{path}, line {number}: not an episode of this benchmark; delete the line, or"
                    " name another file"
                ) from None

    def get(self, key: Key) -> Record | None:
        """The episode, if it was run before."""
        return self._known.get(key)

    def add(self, key: Key, record: Record) -> None:
        """Keep it, in the file too."""
        self._known[key] = record
        if self._path is not None:
            told = asdict(record)
            told["actions"] = [action.tolist() for action in record.actions]
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(json.dumps([*key, told]) + "\n")
