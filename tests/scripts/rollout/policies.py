"""A policy whose versions can be told apart, served by `policy={_target_: ...}`."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

SHAPE = 5, 2


class Arm:
    """Answers with the observation's `x` as actions, and with what it is."""

    def __init__(
        self, version: str, offset: float = 0.0, time_s: float = 0.0, fails: bool = False
    ) -> None:
        """`offset` is added to all actions; `fails`: every inference raises."""
        self.digest = f"arm {version}"
        self.metadata = {"action_horizon": SHAPE[0]}
        self._version, self._offset, self._time_s, self._fails = version, offset, time_s, fails

    def warm_up(self) -> float:
        """Milliseconds that an inference takes."""
        return self._time_s * 1e3 + 1.0

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """`actions` (5, 2), and `version` and `x` to tell who answered what."""
        if self._fails:
            raise RuntimeError("no such joint")
        time.sleep(self._time_s)
        x = float(observation["x"])
        return {"actions": np.full(SHAPE, x + self._offset), "version": self._version, "x": x}
