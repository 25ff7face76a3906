"""What policies without a model share: a shape, a digest, and the time that an answer takes."""

from __future__ import annotations

import time


class StandIn:
    """Everything about a policy except its answer.

    Raises:
        ValueError: `time_s` is negative.
    """

    def __init__(self, model: str, time_s: float, action_horizon: int, action_dim: int) -> None:
        """`model`: its name in the metadata; `time_s`: the seconds that an inference takes.

        Raises:
            ValueError: `time_s` is negative.
        """
        if time_s < 0.0:
            raise ValueError(f"policy.time_s is {time_s}: seconds from 0 on are expected")
        self._time_s = time_s
        self._shape = (action_horizon, action_dim)
        self.digest = f"{model}-{action_horizon}-{action_dim}"
        self.metadata = {
            "robot": "any",
            "model": model,
            "action_horizon": action_horizon,
            "action_dim": action_dim,
            "digest": self.digest,
        }

    def warm_up(self) -> float:
        """Milliseconds that an inference takes."""
        return self._time_s * 1e3

    def _take_time(self) -> None:
        if self._time_s:
            time.sleep(self._time_s)
