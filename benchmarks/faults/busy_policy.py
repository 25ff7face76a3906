"""A policy that says, by UDP, that it has begun an inference: whoever hears it can kill it then."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

import numpy as np


class BusyPolicy:
    """`actions` (action_horizon, action_dim) are all the process's id, after `time_s` seconds."""

    def __init__(self, port: int, time_s: float, action_horizon: int, action_dim: int) -> None:
        """`port` on the loopback interface is told the process's id, in decimal digits."""
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._listener = ("127.0.0.1", port)
        self._time_s, self._shape = time_s, (action_horizon, action_dim)
        self.metadata = {"model": "busy", "action_horizon": action_horizon}

    def warm_up(self) -> float:
        """Milliseconds that an inference takes."""
        return self._time_s * 1e3

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Say so, and take the time."""
        self._socket.sendto(str(os.getpid()).encode(), self._listener)
        time.sleep(self._time_s)
        return {"actions": np.full(self._shape, os.getpid(), np.float64)}
