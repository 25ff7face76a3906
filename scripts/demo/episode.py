"""The control loop of one robot: ask for a chunk of actions, carry out a part of it, ask again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from scripts.local.timing import stages

CONTROL_PERIOD_S = 0.02  # ALOHA is controlled at 50 Hz


class Policy(Protocol):
    """Anything that answers an observation with a chunk; `client.ZmqPolicyClient` is one."""

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        """`actions` of shape (horizon, action dim), and timing in milliseconds."""


class Robot(Protocol):
    """What the loop needs of a robot; `scripts.demo.simulated_robot.SimulatedRobot` is one."""

    def state(self) -> NDArray[np.float32]:
        """Where the joints are."""

    def observe(self) -> dict[str, Any]:
        """What the robot sees and feels now."""

    def step(self, action: NDArray[Any]) -> None:
        """Carry out one action."""


class Request(NamedTuple):
    """One inference: before which control step it was made, and milliseconds by stage."""

    step: int
    stages: dict[str, float]


@dataclass
class Episode:
    """What happened. `states[i]` is where the joints were when `actions[i]` was commanded."""

    states: list[NDArray[np.float32]] = field(default_factory=list)
    actions: list[NDArray[Any]] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    rewards: list[int] = field(default_factory=list)
    """The task's, after each action; empty where nobody gave any."""


def run_episode(
    robot: Robot,
    policy: Policy,
    steps: int,
    actions_per_chunk: int,
    before_step: Callable[[int], None],
    before_request: Callable[[int], None],
) -> Episode:
    """Drive `robot` for `steps` control steps.

    Args:
        robot: observed once per chunk, stepped once per action.
        policy: asked for a chunk every `actions_per_chunk` steps.
        steps: control steps in all.
        actions_per_chunk: how many of a chunk's actions are carried out before it is replaced.
        before_step: called with the number of each control step, from 0.
        before_request: called with the number of the control step before each request.

    Raises:
        client.errors.PolicyError: an inference failed.
        ValueError: a chunk holds fewer than `actions_per_chunk` actions.
    """
    episode = Episode()
    chunk = np.empty((0, 0))
    for step in range(steps):
        before_step(step)
        if step % actions_per_chunk == 0:
            observation = robot.observe()
            before_request(step)
            result = policy.infer(observation)
            chunk = result["actions"]
            if len(chunk) < actions_per_chunk:
                raise ValueError(
                    f"the policy's chunks hold {len(chunk)} actions, fewer than {actions_per_chunk}"
                )
            episode.requests.append(Request(step, stages(result)))
        action = chunk[step % actions_per_chunk]
        episode.states.append(robot.state())
        episode.actions.append(action)
        robot.step(action)
    return episode
