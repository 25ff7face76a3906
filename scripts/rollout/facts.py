"""What is known of a rollout at a moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

# Failures that say nothing of a version: the robot itself gave these requests up.
_GIVEN_UP = ("superseded", "cancelled")


@dataclass(frozen=True)
class Figures:
    """The figures of one version at all brokers together, counted since the rollout began.

    Attributes:
        ready: workers that can be given work.
        workers: workers in any state.
        episodes: that began with this version.
        running: episodes that go on with it.
        answered: requests that had a result.
        failed: requests that had an error, by its code.
        timed: requests of the last minute whose latency is known.
        p95_ms: the 95th percentile of their latency: waiting and inference.
    """

    ready: int = 0
    workers: int = 0
    episodes: int = 0
    running: int = 0
    answered: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    timed: int = 0
    p95_ms: float = 0.0

    @property
    def failures(self) -> int:
        """Failed requests, without those that their robots gave up."""
        return sum(count for code, count in self.failed.items() if code not in _GIVEN_UP)

    @property
    def requests(self) -> int:
        """Requests that had their final answer, without those that their robots gave up."""
        return self.answered + self.failures

    @property
    def failed_share(self) -> float:
        """The share of requests that failed; 0 if there were none."""
        return self.failures / self.requests if self.requests else 0.0

    def since(self, earlier: Figures) -> Figures:
        """The same figures, with only what was counted after an earlier moment."""
        failed = {code: count - earlier.failed.get(code, 0) for code, count in self.failed.items()}
        return Figures(
            ready=self.ready,
            workers=self.workers,
            episodes=self.episodes - earlier.episodes,
            running=self.running,
            answered=self.answered - earlier.answered,
            failed={code: count for code, count in failed.items() if count},
            timed=self.timed,
            p95_ms=self.p95_ms,
        )


@dataclass(frozen=True)
class Compared:
    """The result of asking the new version what the old one had been asked.

    Attributes:
        asked: requests that the new version was asked.
        failed: of those, by the code of the error.
        largest: the largest absolute difference of an action, None while nothing was compared.
        mean: the largest mean absolute difference of an answer's actions.
        other: how actions differ otherwise, such as in their shape; empty: they do not.
        old_p95_ms, new_p95_ms: the workers' time for the same requests.
    """

    asked: int = 0
    failed: Mapping[str, int] = field(default_factory=dict)
    largest: float | None = None
    mean: float | None = None
    other: str = ""
    old_p95_ms: float = 0.0
    new_p95_ms: float = 0.0

    @property
    def failures(self) -> int:
        """How many requests failed, with any code."""
        return sum(self.failed.values())


@dataclass(frozen=True)
class Facts:
    """What is known at one moment of a rollout.

    Attributes:
        now: monotonic seconds.
        stable, candidate: the old and the new version.
        shadow: None where nothing is compared.
        ended: how each worker ended that was started here and is not running any more.
        interrupts: how often the operator has asked for the end.
        moved: episodes that were moved from one version to the other.
        is_settled: no broker has just restarted or fallen silent; if one has, robots may be on
            their way back to it, whose episodes are not among the running ones yet.
    """

    now: float
    stable: Figures = field(default_factory=Figures)
    candidate: Figures = field(default_factory=Figures)
    shadow: Compared | None = None
    ended: tuple[str, ...] = ()
    interrupts: int = 0
    moved: int = 0
    is_settled: bool = True


def without_shadow(figures: Figures, shadow: Compared | None) -> Figures:
    """A version's figures without the requests that this program sent to it itself."""
    if shadow is None:
        return figures
    asked = shadow.asked - shadow.failures
    failed = {
        code: max(0, count - shadow.failed.get(code, 0)) for code, count in figures.failed.items()
    }
    left = {code: count for code, count in failed.items() if count}
    return replace(figures, answered=max(0, figures.answered - asked), failed=left)
