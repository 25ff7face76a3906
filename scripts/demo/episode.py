"""The control loop of one robot: an action at every step, while chunks are computed elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from client import AsyncActionChunkBroker, errors
from scripts.local.timing import stages

CONTROL_PERIOD_S = 0.02  # ALOHA is controlled at 50 Hz
STEPS_PER_FRAME = 2
"""Control steps from one frame of the camera to the next: it takes 25 in a second."""
LONGEST_HOLD_STEPS = 1500  # at least 30 s, in which a broker has long been started again
STEP = "control step"
"""Key of an observation on its way to the thread that asks, which may be late to notice it."""


class Policy(Protocol):
    """Anything that answers an observation with a chunk; `client.ZmqPolicyClient` is one."""

    @property
    def infer(self) -> Callable[..., dict[str, Any]]:
        """`actions` of shape (horizon, action dim), and timing in milliseconds."""

    def reset(self) -> None:
        """Begin a new episode."""

    def get_server_metadata(self) -> dict[str, Any]:
        """What the policy says of itself."""


class Robot(Protocol):
    """What the loop needs of a robot; `scripts.demo.simulated_robot.SimulatedRobot` is one."""

    def state(self) -> NDArray[np.float32]:
        """Where the joints are."""

    def observe(self) -> dict[str, Any]:
        """What the robot sees and feels now."""

    def step(self, action: NDArray[Any]) -> None:
        """Carry out one action."""


class Request(NamedTuple):
    """One inference: the control steps in which it was made and answered; milliseconds by stage."""

    step: int
    answered: int
    stages: dict[str, float]


@dataclass
class Episode:
    """What happened. `states[i]` is where the joints were when `actions[i]` was commanded."""

    states: list[NDArray[np.float32]] = field(default_factory=list)
    actions: list[NDArray[Any]] = field(default_factory=list)
    seams: list[int] = field(default_factory=list)
    """Control steps with the first action of a new chunk."""
    held: list[int] = field(default_factory=list)
    """Control steps that had no action of their own, in which the one before was repeated."""
    requests: list[Request] = field(default_factory=list)
    rewards: list[int] = field(default_factory=list)
    """The task's, after each action; empty where nobody gave any."""

    @property
    def steps(self) -> int:
        """Control steps so far."""
        return len(self.actions)

    @property
    def seconds(self) -> float:
        """The robot's own time: 20 ms for every control step, however long it took."""
        return self.steps * CONTROL_PERIOD_S

    def changes(self) -> NDArray[np.float64]:
        """How far each command lies from the one before, (steps,); 0 for the first."""
        commands = np.stack(self.actions).astype(np.float64)
        moved: NDArray[np.float64] = np.linalg.norm(
            np.diff(commands, axis=0, prepend=commands[:1]), axis=1
        )
        return moved


class WatchedPolicy:
    """A policy whose requests are noted in an episode as they are answered."""

    def __init__(
        self, policy: Policy, episode: Episode, before_request: Callable[[int], None]
    ) -> None:
        """`before_request` is called with the number of the control step, by whoever asks."""
        self._policy, self._episode, self._before_request = policy, episode, before_request
        self.reset, self.get_server_metadata = policy.reset, policy.get_server_metadata

    def infer(self, obs: dict[str, Any], **options: Any) -> dict[str, Any]:
        """As the policy's own; `obs` has the control step of `run_episode` in it too."""
        sent = {key: value for key, value in obs.items() if key != STEP}
        step = obs[STEP]
        self._before_request(step)
        result = self._policy.infer(sent, **options)
        self._episode.requests.append(Request(step, self._episode.steps, stages(result)))
        return result


class Pace:
    """Keeps a loop from running faster than `period_s` a turn; a slower one is not hurried."""

    def __init__(
        self,
        period_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._period_s, self._clock, self._sleep = period_s, clock, sleep
        self._due = clock()

    def wait(self) -> None:
        """Return when the next turn is due, or at once where it is late."""
        self._sleep(max(0.0, self._due - self._clock()))
        # A late turn is not made up for by hurried ones.
        self._due = max(self._due, self._clock()) + self._period_s


def run_episode(
    robot: Robot,
    broker: AsyncActionChunkBroker,
    actions: int,
    before_step: Callable[[int], None],
    episode: Episode,
) -> None:
    """Drive `robot` until it has carried out so many actions of chunks; held steps come on top.

    Args:
        robot: observed before, and stepped at, every control step.
        broker: asked for an action at every control step. Only an episode's first chunk is waited
            for.
        actions: at least 1.
        before_step: called with the number of each control step, from 0.
        episode: what happens is added to it.

    Raises:
        client.errors.PolicyError: an inference failed, or the robot was held for
            LONGEST_HOLD_STEPS in a row.
        ValueError: the policy's chunks are too short.
    """
    before = broker.statistics()
    held_in_a_row = 0
    while episode.steps - len(episode.held) < actions:
        before_step(episode.steps)
        observation = {**robot.observe(), STEP: episode.steps}
        action = broker.infer(observation)["actions"]
        after = broker.statistics()
        if after.seams > before.seams:
            episode.seams.append(episode.steps)
        is_held = after.held > before.held
        if is_held:
            episode.held.append(episode.steps)
        held_in_a_row = held_in_a_row + 1 if is_held else 0
        if held_in_a_row >= LONGEST_HOLD_STEPS:
            raise errors.Starved(
                f"the robot was held for {held_in_a_row} control steps and still no answer came: "
                f"look at the logs of broker and workers. Last failure: {broker.last_failure!r}"
            )
        before = after
        episode.states.append(robot.state())
        episode.actions.append(action)
        robot.step(action)
