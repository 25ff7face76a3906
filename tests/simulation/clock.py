"""Simulated time: actions in the order of their moments, and of their planning where equal."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class Clock:
    """Runs what was planned; `now` is in seconds from the start of the simulation."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0  # run so far
        self._planned: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._plans = 0

    def at(self, moment: float, action: Callable[..., None], *arguments: Any) -> None:
        """Have `action(*arguments)` run at a moment, now at the earliest."""
        self._plans += 1
        heapq.heappush(self._planned, (max(moment, self.now), self._plans, action, arguments))

    def after(self, seconds: float, action: Callable[..., None], *arguments: Any) -> None:
        """Have `action(*arguments)` run some time from now."""
        self.at(self.now + seconds, action, *arguments)

    def run_until(self, moment: float) -> None:
        """Run all that is planned up to and including a moment, which it is then."""
        planned = self._planned
        while planned and planned[0][0] <= moment:
            self.now, _, action, arguments = heapq.heappop(planned)
            self.events += 1
            action(*arguments)
        self.now = moment
