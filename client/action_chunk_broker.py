"""Hands out a chunk's actions one control step at a time."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np


class Policy(Protocol):
    """Anything that turns an observation into a result, whatever is behind it."""

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        """Answer an observation with `actions`."""

    def reset(self) -> None:
        """Begin a new episode."""


class ActionChunkBroker:
    """Asks the policy only when the last chunk is used up, as openpi's class of this name does.

    Args:
        policy: asked with the observation of the step at which a new chunk is due.
        action_horizon: steps to take from each chunk; at most the policy's own horizon.

    Raises:
        ValueError: `action_horizon` is less than 1.
    """

    def __init__(self, policy: Policy, action_horizon: int) -> None:
        """`action_horizon`: how many actions of each chunk are executed.

        Raises:
            ValueError: it is less than 1.
        """
        if action_horizon < 1:
            raise ValueError(f"action_horizon is {action_horizon}: at least 1 step is needed")
        self._policy = policy
        self._horizon = action_horizon
        self._chunk: dict[str, Any] | None = None
        self._step = 0

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        """The result for this control step: every array of the chunk's, indexed by the step.

        Raises:
            ValueError: the policy's chunk has fewer than `action_horizon` actions.
        """
        if self._chunk is None:
            chunk = self._policy.infer(obs)
            if len(chunk["actions"]) < self._horizon:
                raise ValueError(
                    f"the policy answers {len(chunk['actions'])} actions at a time: an "
                    f"action_horizon of {self._horizon} is too long"
                )
            self._chunk, self._step = chunk, 0
        result: dict[str, Any] = _at_step(self._chunk, self._step)
        self._step += 1
        if self._step >= self._horizon:
            self._chunk = None
        return result

    def reset(self) -> None:
        """Begin a new episode: forget the rest of the chunk."""
        self._policy.reset()
        self._chunk = None


def _at_step(value: Any, step: int) -> Any:
    if isinstance(value, dict):
        return {key: _at_step(member, step) for key, member in value.items()}
    return value[step] if isinstance(value, np.ndarray) else value
