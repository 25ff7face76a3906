"""Answers with zeros after a set time: what remains of a round trip is the transport's."""

from __future__ import annotations

from typing import Any

import numpy as np

from worker.policies.stand_in import StandIn


class NoopPolicy(StandIn):
    """Zeros, float32 (action_horizon, action_dim), after `time_s` seconds.

    Raises:
        ValueError: `time_s` is negative.
    """

    reads_only = True

    def __init__(self, time_s: float = 0.0, action_horizon: int = 50, action_dim: int = 14) -> None:
        """`time_s`: how long an inference takes.

        Raises:
            ValueError: it is negative.
        """
        super().__init__("noop", time_s, action_horizon, action_dim)
        self._actions = np.zeros(self._shape, np.float32)

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Zeros, whatever the observation."""
        self._take_time()
        return {"actions": self._actions}
