"""Answers with what it was sent, so that a test can tell whose answer it got."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from worker.policies.stand_in import StandIn


def fingerprint(observation: dict[str, Any]) -> int:
    """A CRC-32 over all keys and values of a nested observation, in their order."""
    checksum = 0
    for key, value in observation.items():
        checksum = zlib.crc32(str(key).encode(), checksum)
        if isinstance(value, dict):
            checksum = zlib.crc32(fingerprint(value).to_bytes(4, "little"), checksum)
        elif isinstance(value, np.ndarray):
            checksum = zlib.crc32(
                np.ascontiguousarray(value).reshape(-1).view(np.uint8).data, checksum
            )
        else:
            checksum = zlib.crc32(repr(value).encode(), checksum)
    return checksum


class EchoPolicy(StandIn):
    """`actions` are filled with the observation's fingerprint; `observation` is what came.

    Raises:
        ValueError: `time_s`, the seconds that an answer takes, is negative.
    """

    def __init__(self, action_horizon: int = 50, action_dim: int = 14, time_s: float = 0.0) -> None:
        """`time_s`: how long an inference takes.

        Raises:
            ValueError: it is negative.
        """
        super().__init__("echo", time_s, action_horizon, action_dim)

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Float64 (action_horizon, action_dim), each number the fingerprint; and the observation.

        The seed that the worker adds is left out of both.
        """
        self._take_time()
        asked = {key: value for key, value in observation.items() if key != "seed"}
        actions = np.full(self._shape, float(fingerprint(asked)))
        return {"actions": actions, "observation": asked}
