"""Answers with zeros after a set time: what remains of a round trip is the transport's."""

from __future__ import annotations

import time
from typing import Any

import numpy as np


class NoopPolicy:
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
        if time_s < 0.0:
            raise ValueError(f"policy.time_s is {time_s}: seconds from 0 on are expected")
        self._time_s = time_s
        self._actions = np.zeros((action_horizon, action_dim), np.float32)
        self.digest = f"noop-{action_horizon}-{action_dim}"
        self.metadata = {
            "robot": "any",
            "model": "noop",
            "action_horizon": action_horizon,
            "action_dim": action_dim,
            "digest": self.digest,
        }

    def warm_up(self) -> float:
        """Milliseconds that an inference takes."""
        return self._time_s * 1e3

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Zeros, whatever the observation."""
        if self._time_s:
            time.sleep(self._time_s)
        return {"actions": self._actions}
