"""A policy that is slow, and not always equally slow; its answers do not matter."""

from __future__ import annotations

import time
from typing import Any

import numpy as np


class SlowPolicy:
    """Zeros (50, 14) after `time_s`, give or take `jitter_s` at most."""

    def __init__(self, time_s: float, jitter_s: float) -> None:
        self._time_s, self._jitter_s = time_s, jitter_s
        self._random = np.random.default_rng(0)
        self._actions = np.zeros((50, 14))
        self.digest = f"slow-{time_s}-{jitter_s}"
        self.metadata = {"robot": "any", "model": "slow", "action_horizon": 50, "action_dim": 14}

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Answer as late as it was told to."""
        time.sleep(self._time_s + self._jitter_s * self._random.uniform(-1.0, 1.0))
        return {"actions": self._actions}
