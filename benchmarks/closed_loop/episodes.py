"""One episode on a simulated clock: the answer to an observation is usable from `delay` later on.

Nothing here depends on how fast the machine is: inference takes no simulated time of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.closed_loop.links import Link
from benchmarks.closed_loop.setups import Setup
from client.chunk_schedule import ChunkSchedule, Request, ScheduleOptions, Step
from scripts.tiny.kinematics import START
from scripts.tiny.scene import CONTROL_PERIOD_S, SUCCESS, Scene

Array = NDArray[np.float64]

LONGEST_STEPS = 700
AFTERWARDS = 10
"""Control steps that are still looked at after the task was done."""
ACTIONS_PER_CHUNK = 25
JOINTS = [*range(6), *range(7, 13)]
REST = np.concatenate([START, [0.0], START, [0.0]])


class Schedule(Protocol):
    """What decides on each control step: ours, or `Synchronous`."""

    @property
    def position(self) -> float:
        """Where the loop stands in its chunk."""

    def step(self, now: float) -> Step:
        """What the robot is to do now."""

    def answered(self, request: Request, actions: Any, now: float) -> None:
        """Take in the answer to a request."""


@dataclass(frozen=True)
class Method:
    """A way to live with the delay; `options` None: synchronous."""

    name: str
    options: dict[str, Any] | None


METHODS = (
    Method("synchronous", None),
    Method("replace", {"merge": "replace"}),
    Method("average", {"merge": "average"}),
    Method("ensemble", {"merge": "ensemble"}),
    Method("rtc identity", {"merge": "rtc", "rtc": {"mode": "identity"}}),
    Method("rtc vjp", {"merge": "rtc", "rtc": {"mode": "vjp"}}),
    Method("rtc trained", {"merge": "rtc", "rtc": {"mode": "trained"}}),
)


class Synchronous:
    """Asks when the chunk is used up, and holds until the answer is there."""

    def __init__(self) -> None:
        self._chunk: deque[Any] = deque()
        self._request: Request | None = None
        self._last: Any = None
        self._observed_at = 0.0
        self._seam = False
        self.position = 0.0

    def step(self, now: float) -> Step:
        """As `ChunkSchedule.step`."""
        if not self._chunk:
            asks = self._request is None
            if asks:
                self._request = Request(0, self.position, now, {})
            return Step(self._last, False, False, 0.0, self._request if asks else None)
        seam, self._seam = self._seam, False
        self._last = self._chunk.popleft()
        self.position += 1
        return Step(self._last, True, seam, now - self._observed_at, None)

    def answered(self, request: Request, actions: Any, now: float) -> None:
        """As `ChunkSchedule.answered`."""
        self._chunk.extend(actions[:ACTIONS_PER_CHUNK])
        self._request, self._observed_at, self._seam = None, request.observed_at, True


@dataclass
class Record:
    """What was commanded in one episode, and what came of it."""

    actions: list[Array] = field(default_factory=list)
    fresh: list[bool] = field(default_factory=list)
    seams: list[bool] = field(default_factory=list)
    ages_s: list[float] = field(default_factory=list)
    """Of fresh steps only."""
    reward: int = 0
    done_at: int | None = None
    """Control step of the full reward."""

    def note(self, step: Step, action: Array) -> None:
        """One control step in which `action` was commanded."""
        self.actions.append(action)
        self.fresh.append(step.is_fresh)
        self.seams.append(step.is_seam)
        if step.is_fresh:
            self.ages_s.append(step.age_s)


def run_episode(scene: Scene, setup: Setup, method: Method, link: Link, seed: int) -> Record:
    """Drive `scene` from the start that `seed` decides, until its task is done or time is up."""
    scene.reset(seed)
    schedule, delays = _schedule(method), link.delays(seed)
    observe = setup.observer(scene, seed)
    coming: deque[tuple[float, Request, Any]] = deque()
    record, held = Record(), REST
    for number in range(LONGEST_STEPS):
        now = number * CONTROL_PERIOD_S
        _deliver(schedule, coming, now)
        step = schedule.step(now)
        if step.request is not None:
            answer = setup.policy.infer(observe(step.request))["actions"]
            coming.append((now + next(delays), step.request, answer))
            if method.options is None and _deliver(schedule, coming, now):
                step = schedule.step(now)  # an answer without delay is for this very step
        held = held if step.action is None else step.action
        record.note(step, held)
        record.reward = max(record.reward, scene.step(held))
        if record.reward == SUCCESS and record.done_at is None:
            record.done_at = number
        is_over = record.done_at is not None and number >= record.done_at + AFTERWARDS
        if is_over or schedule.position >= setup.most_actions:
            break
    return record


def _schedule(method: Method) -> Schedule:
    if method.options is None:
        return Synchronous()
    options = {"action_horizon": ACTIONS_PER_CHUNK, **method.options}
    return ChunkSchedule(ScheduleOptions(1 / CONTROL_PERIOD_S, **options))


def _deliver(schedule: Schedule, coming: deque[tuple[float, Request, Any]], now: float) -> bool:
    """Hand over what has arrived; whether something has."""
    arrived = False
    while coming and coming[0][0] <= now + 1e-9:
        at, request, answer = coming.popleft()
        schedule.answered(request, answer, at)
        arrived = True
    return arrived
