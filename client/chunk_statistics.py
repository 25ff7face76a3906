"""What happened in a control loop: held steps, ages, delays and seams."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from client.merging import Array


@dataclass(frozen=True)
class ChunkStatistics:
    """Counts since the broker was made; times in seconds, jumps in the actions' own units."""

    steps: int
    """Control steps."""
    fresh: int
    """Steps with an action of a chunk."""
    held: int
    """Steps without one, in which the last action was repeated: starvation."""
    waited: int
    """Steps before an episode's first chunk, in which the robot stood still."""
    slowed: int
    """Steps at less than the usual pace (`starvation="slow"`)."""
    requests: int
    answers: int
    failures: int
    dropped: int
    """Answers that came after a reset."""
    skipped: int
    """Actions of new chunks that were stale when they came: executed meanwhile."""
    latency_s: float | None
    """Of the last answer."""
    expected_latency_s: float | None
    """The latency that the next request is timed by: a high quantile of recent ones."""
    delay_steps: int
    """Actions executed between the last chunk's observation and its arrival."""
    age_s: float
    """Of the observation behind the last action."""
    mean_age_s: float
    max_age_s: float
    seams: int
    mean_seam_jump: float
    """Euclidean distance from the last action before a new chunk to the first of it."""
    max_seam_jump: float
    mean_inside_change: float
    """The same from step to step inside of chunks, to compare with."""


class Tally:
    """Counts for `ChunkStatistics`."""

    def __init__(self) -> None:
        self.requests = self.failures = self.dropped = 0
        self._answers = self._skipped = self._delay_steps = 0
        self.held = self._fresh = self._waited = self._slowed = 0
        self._latency_s: float | None = None
        self._ages = _Mean()
        self._seams = _Mean()
        self._inside = _Mean()

    def starved(self, has_begun: bool) -> None:
        """A step without an action of its own."""
        if has_begun:
            self.held += 1
        else:
            self._waited += 1

    def acted(
        self, action: Array, before: Array | None, is_seam: bool, age_s: float, rate: float
    ) -> None:
        """A step with an action of its own, after the action `before`."""
        self._fresh += 1
        self._slowed += rate < 1.0
        self._ages.add(age_s)
        if before is not None:
            change = float(np.linalg.norm(action - before))
            (self._seams if is_seam else self._inside).add(change)

    def answered(self, latency_s: float, skipped: int) -> None:
        """A chunk came, whose first `skipped` actions are stale."""
        self._answers += 1
        self._latency_s = latency_s
        self._delay_steps = skipped
        self._skipped += skipped

    def statistics(self, expected_latency_s: float | None) -> ChunkStatistics:
        """The counts as they are now."""
        return ChunkStatistics(
            steps=self._fresh + self.held + self._waited,
            fresh=self._fresh,
            held=self.held,
            waited=self._waited,
            slowed=self._slowed,
            requests=self.requests,
            answers=self._answers,
            failures=self.failures,
            dropped=self.dropped,
            skipped=self._skipped,
            latency_s=self._latency_s,
            expected_latency_s=expected_latency_s,
            delay_steps=self._delay_steps,
            age_s=self._ages.last,
            mean_age_s=self._ages.mean,
            max_age_s=self._ages.largest,
            seams=self._seams.count,
            mean_seam_jump=self._seams.mean,
            max_seam_jump=self._seams.largest,
            mean_inside_change=self._inside.mean,
        )


class _Mean:
    def __init__(self) -> None:
        self.count = 0
        self.last = self.largest = self._sum = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.last = value
        self.largest = max(self.largest, value)
        self._sum += value

    @property
    def mean(self) -> float:
        return self._sum / self.count if self.count else 0.0
