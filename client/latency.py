"""How long an answer will take, judged by the recent ones."""

from __future__ import annotations

from collections import deque

KEPT = 64
QUANTILE = 0.95
DECAY = 0.9


class LatencyEstimate:
    """A high quantile of recent latencies, in seconds; newer ones weigh more.

    Each latency weighs 0.9 of the one after it. So a single slow one, such as a first inference
    that had to compile, is forgotten after about ten others.
    """

    def __init__(self) -> None:
        self._recent: deque[float] = deque(maxlen=KEPT)

    def add(self, latency_s: float) -> None:
        """Note how long an answer took."""
        self._recent.append(latency_s)

    @property
    def seconds(self) -> float | None:
        """The smallest latency that 95 % of the weight does not exceed; None before the first."""
        if not self._recent:
            return None
        ages = range(len(self._recent) - 1, -1, -1)
        weighted = sorted(zip(self._recent, (DECAY**age for age in ages)))
        missing = QUANTILE * sum(weight for _, weight in weighted)
        for latency_s, weight in weighted:
            missing -= weight
            if missing <= 0.0:
                return latency_s
        return weighted[-1][0]
