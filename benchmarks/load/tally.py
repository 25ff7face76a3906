"""What became of every request, and what that makes together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

ANSWERED, SKIPPED, SILENT = "answered", "still waiting for the one before", "silence"


@dataclass(slots=True)
class Wish:
    """One moment at which a robot wanted an answer. Times are `time.monotonic()`'s.

    `outcome` is "answered", the code of an error, or why there was neither.
    """

    at: float
    deadline_s: float
    outcome: str = SILENT
    ended: float = 0.0
    policy_ms: float = 0.0  # of it, the policy's own

    @property
    def in_time(self) -> bool:
        """Was it answered while the robot could use it?"""
        return self.outcome == ANSWERED and self.ended - self.at <= self.deadline_s


@dataclass
class Tally:
    """The wishes of one run whose moment lay between `start` and `end`."""

    start: float
    end: float
    wishes: Sequence[Wish]
    robots: int
    others_cores: float = 0.0  # that other programs kept busy meanwhile
    threads: dict[str, float] = field(default_factory=dict)  # the broker's cores, by thread

    @property
    def seconds(self) -> float:
        """How long was counted."""
        return self.end - self.start

    @property
    def share_in_time(self) -> float:
        """Of all wishes, those that were answered in time."""
        return sum(wish.in_time for wish in self.wishes) / max(1, len(self.wishes))

    @property
    def goodput(self) -> float:
        """Answers in time per second."""
        return sum(wish.in_time for wish in self.wishes) / self.seconds

    @property
    def wished(self) -> float:
        """Wishes per second."""
        return len(self.wishes) / self.seconds

    @property
    def outcomes(self) -> Counter[str]:
        """How many of each; late answers apart."""
        return Counter(
            "late" if wish.outcome == ANSWERED and not wish.in_time else wish.outcome
            for wish in self.wishes
        )

    @property
    def took_ms(self) -> list[float]:
        """From the wish to its answer, of those that were answered at all."""
        return [(wish.ended - wish.at) * 1e3 for wish in self.wishes if wish.outcome == ANSWERED]

    @property
    def added_ms(self) -> list[float]:
        """The same without the policy's own time."""
        return [
            (wish.ended - wish.at) * 1e3 - wish.policy_ms
            for wish in self.wishes
            if wish.outcome == ANSWERED
        ]

    def answers_per_s(self, wishes: Iterable[Wish]) -> float:
        """Answers that came between start and end, of these wishes."""
        came = sum(w.outcome == ANSWERED and self.start < w.ended <= self.end for w in wishes)
        return came / self.seconds
