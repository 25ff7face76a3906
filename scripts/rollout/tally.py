"""Counts that go on when a broker restarts and counts from zero again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping


class Tally:
    """What one broker has counted since it was first asked, over all its restarts."""

    def __init__(self) -> None:
        self._epoch: int | None = None
        self._before: Counter[str] = Counter()  # of earlier lives, less what was there at first
        self._last: Mapping[str, int] = {}

    def take(self, epoch: int, counts: Mapping[str, int]) -> dict[str, int]:
        """Add what the broker says in the life that this epoch names; returns the sums."""
        if self._epoch is None:
            self._before.subtract(counts)
        elif epoch != self._epoch:
            self._before.update(self._last)
        self._epoch, self._last = epoch, dict(counts)
        keys = {**self._before, **counts}
        return {key: self._before[key] + counts.get(key, 0) for key in keys}
