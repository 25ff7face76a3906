"""A policy of your own, served from the clone.

PYTHONPATH=docs/examples python -m worker policy="{_target_: own_policy.HoldStill}" name=still
"""

import numpy as np

from client.errors import BadObservation


class HoldStill:
    """Answers with the state that the robot is in, for all of the chunk."""

    def __init__(self, horizon: int = 10) -> None:
        """`horizon`: actions in one answer. Arguments are keys of `policy` on the command line."""
        self._horizon = horizon
        self.metadata = {"action_horizon": horizon, "model": "still"}

    def infer(self, observation: dict) -> dict:
        """`actions` (horizon, joints) from `state` (joints,)."""
        state = observation.get("state")
        if not isinstance(state, np.ndarray) or state.ndim != 1:
            raise BadObservation("state: a vector of joint positions is expected")
        return {"actions": np.tile(state, (self._horizon, 1))}
