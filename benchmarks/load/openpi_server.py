"""`python -m benchmarks.load.openpi_server PORT SECONDS`: openpi's server, with a timed policy.

Runs in openpi's environment (`benchmarks.openpi_venv`).
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np


class TimedPolicy:
    """Zeros (50, 14) after so many seconds."""

    def __init__(self, time_s: float) -> None:
        self._time_s = time_s

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Take the time."""
        time.sleep(self._time_s)
        return {"actions": np.zeros((50, 14), np.float32)}

    def reset(self) -> None:
        """Nothing to forget."""


if __name__ == "__main__":
    from openpi_server import WebsocketPolicyServer

    WebsocketPolicyServer(
        TimedPolicy(float(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1])
    ).serve_forever()
