"""When to ask for the next chunk, which action is due, and what to do when none is left.

No thread, no clock and no socket: times come in with each call, so that every case can be tested as
a list of events, and a benchmark can drive it on a simulated clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from client.chunk_statistics import ChunkStatistics, Tally
from client.latency import LatencyEstimate
from client.merging import Array, Chunk, averaged, ensembled, replaced

MERGES = ("replace", "average", "ensemble", "rtc")
STARVATIONS = ("hold", "slow", "raise")
SLOWEST = 0.25  # the lowest pace of a robot that is slowed down, as a part of the usual one
MOST_CHUNKS = 64  # that an ensemble remembers
FIRST_PAUSE_S = 0.05  # before asking again after a failure; doubles
LONGEST_PAUSE_S = 1.0


@dataclass(frozen=True)
class ScheduleOptions:
    """How a schedule behaves; see `AsyncActionChunkBroker`."""

    control_hz: float
    merge: str = "replace"
    action_horizon: int | None = None
    starvation: str = "hold"
    average_weights: tuple[float, float] = (0.3, 0.7)
    ensemble_decay: float = 0.01
    rtc: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse options that could never drive a robot."""
        if not (math.isfinite(self.control_hz) and self.control_hz > 0):
            raise ValueError(f"control_hz is {self.control_hz}: steps a second, more than 0")
        for name, value, known in (
            ("merge", self.merge, MERGES),
            ("starvation", self.starvation, STARVATIONS),
        ):
            if value not in known:
                raise ValueError(f"{name} is {value!r}: one of {', '.join(known)}")
        if self.action_horizon is not None and self.action_horizon < 1:
            raise ValueError(f"action_horizon is {self.action_horizon}: at least 1 step is needed")
        weights = self.average_weights
        if len(weights) != 2 or not all(0 <= w < math.inf for w in weights) or not weights[1]:
            raise ValueError(
                f"average_weights are {weights}: of the old and of the new chunk, from 0 on, and "
                "the new one's not 0"
            )
        if not 0 <= self.ensemble_decay < math.inf:
            raise ValueError(f"ensemble_decay is {self.ensemble_decay}: a number from 0 on")


@dataclass(frozen=True)
class Request:
    """A chunk to ask for, with the observation of the step that returned this."""

    episode: int
    position: float
    observed_at: float
    options: dict[str, Any]
    """Keywords for `infer`: the leftover, with merge `rtc`."""


@dataclass(frozen=True)
class Step:
    """What one control step does."""

    action: Array | None
    """(dims,); None while the episode has no action yet, so that the robot stands still."""
    is_fresh: bool
    """False: nothing is left, and the last action is held."""
    is_seam: bool
    """The first action after a new chunk came in."""
    age_s: float
    """Of the observation behind the action; 0 where there is none."""
    request: Request | None


class ChunkSchedule:
    """One robot's plan: chunks come in, an action goes out at each control step."""

    def __init__(self, options: ScheduleOptions) -> None:
        self.options = options
        self._tally = Tally()
        self._latency = LatencyEstimate()
        self._episode = 0
        self._clear()

    def _clear(self) -> None:
        self._chunks: list[Chunk] = []
        self._plan: Chunk | None = None
        self._observed_at = 0.0
        self._position = 0.0  # on the plan's clock: actions executed in this episode
        self._last: Array | None = None
        self._seam = False
        self._in_flight: Request | None = None
        self._ask_at = -math.inf
        self._pause_s = FIRST_PAUSE_S

    @property
    def position(self) -> float:
        """How many actions were executed in this episode; a fraction where it was slowed down."""
        return self._position

    @property
    def begun(self) -> bool:
        """Whether this episode has had a chunk."""
        return self._plan is not None

    @property
    def is_asking(self) -> bool:
        """Whether a request is in flight."""
        return self._in_flight is not None

    @property
    def held(self) -> int:
        """How many steps so far had no action of their own."""
        return self._tally.held

    def statistics(self) -> ChunkStatistics:
        """What has happened so far, in all episodes."""
        return self._tally.statistics(self._latency.seconds)

    def reset(self) -> None:
        """Begin a new episode; what is in flight will be dropped. Latencies are remembered."""
        self._episode += 1
        self._clear()

    def step(self, now: float) -> Step:
        """The next control step, whose observation was taken `now` (monotonic seconds)."""
        request = self._next_request(now)
        plan = self._plan
        if plan is None or self._position > plan.end + 1e-9:
            self._tally.starved(has_begun=plan is not None)
            return Step(self._last, False, False, self._age(now), request)
        action = plan.row(self._position)
        rate = self._rate(now, plan)
        seam, self._seam = self._seam, False
        self._tally.acted(action, self._last, seam and self._last is not None, self._age(now), rate)
        self._last = action
        self._advance(plan, rate)
        return Step(action, True, seam, self._age(now), request)

    def answered(self, request: Request, actions: Any, now: float) -> None:
        """A chunk came, `actions` (rows, dims), which is dropped if its episode is over.

        Raises:
            ValueError: it is not a chunk, or has other dims than the chunks before.
        """
        if request is not self._in_flight:
            self._tally.dropped += 1
            return
        chunk = Chunk(request.position, self._checked(actions))
        self._in_flight = None
        latency_s = now - request.observed_at
        self._latency.add(latency_s)
        self._pause_s = FIRST_PAUSE_S
        # Rows before the clock's place are stale: exactly those that were executed meanwhile.
        skipped = math.ceil(self._position - chunk.start - 1e-9)
        self._tally.answered(latency_s, min(skipped, len(chunk.actions)))
        if self._position > chunk.end:
            return
        self._chunks = [c for c in self._chunks if c.end >= self._position][-MOST_CHUNKS:]
        self._chunks.append(chunk)
        self._plan = Chunk(chunk.start, self._merged())
        self._observed_at = request.observed_at
        self._seam = True

    def failed(self, request: Request, now: float, pauses: bool) -> bool:
        """No chunk came; returns whether that still matters.

        `pauses`: wait before asking again, longer each time.
        """
        if request is not self._in_flight:
            self._tally.dropped += 1
            return False
        self._in_flight = None
        self._tally.failures += 1
        if pauses:
            self._ask_at = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        return True

    def _checked(self, actions: Any) -> Array:
        rows = np.asarray(actions, dtype=np.float64)
        if rows.ndim != 2 or not len(rows):
            raise ValueError(f"the policy answered actions of shape {rows.shape}: not (rows, dims)")
        if self._last is not None and rows.shape[1:] != self._last.shape:
            raise ValueError(
                f"the policy answered actions of {rows.shape[1]} dims after {len(self._last)}"
            )
        horizon = self.options.action_horizon
        if horizon is not None and horizon > len(rows):
            raise ValueError(
                f"the policy answers {len(rows)} actions at a time: an action_horizon of "
                f"{horizon} is too long"
            )
        return rows

    def _merged(self) -> Array:
        if self.options.merge == "average":
            # With the plan and not the last chunk, since the plan is what would have been done.
            before = [] if self._plan is None else [self._plan]
            return averaged([*before, self._chunks[-1]], self.options.average_weights)
        if self.options.merge == "ensemble":
            return ensembled(self._chunks, self.options.ensemble_decay)
        return replaced(self._chunks)

    def _next_request(self, now: float) -> Request | None:
        if self._in_flight is not None or now < self._ask_at or not self._is_due():
            return None
        options = self._leftover() if self.options.merge == "rtc" else {}
        self._in_flight = Request(self._episode, self._position, now, options)
        self._tally.requests += 1
        return self._in_flight

    def _is_due(self) -> bool:
        """Whether a chunk asked for now would come just when a new one is wanted."""
        if self._plan is None:
            return True
        rows = len(self._plan.actions)
        horizon = self.options.action_horizon or max(1, rows // 2)
        return self._position - self._plan.start >= horizon - self._delay_steps()

    def _delay_steps(self) -> int:
        """Actions that will be executed before an answer to this step's request can be used."""
        latency_s = self._latency.seconds or 0.0
        return max(1, math.ceil(latency_s * self.options.control_hz - 1e-6))

    def _leftover(self) -> dict[str, Any]:
        rest = [] if self._plan is None else self._plan.rest(self._position)
        if not len(rest):
            return {}
        given = {key: value for key, value in self.options.rtc.items() if value is not None}
        delay = min(self._delay_steps(), len(rest))
        return {"prev_actions": rest, "inference_delay": delay, **given}

    def _rate(self, now: float, plan: Chunk) -> float:
        """The pace: less than 1 if what is left has to last until the answer in flight comes."""
        if self.options.starvation != "slow" or self._in_flight is None:
            return 1.0
        expected_s = (self._latency.seconds or 0.0) - (now - self._in_flight.observed_at)
        needed = max(1.0, expected_s * self.options.control_hz)
        left = plan.end - self._position
        return min(1.0, max(SLOWEST, left / needed))

    def _advance(self, plan: Chunk, rate: float) -> None:
        place = self._position - plan.start
        # At full pace the clock stands on a row again after one step.
        place = math.floor(place + 1e-9) + 1 if rate >= 1.0 else place + rate
        self._position = plan.start + place

    def _age(self, now: float) -> float:
        return 0.0 if self._plan is None else now - self._observed_at
