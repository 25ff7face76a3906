"""A robot of its own process that asks until it is stopped: `memory_robot PORT POLICY [USER|HOST]`.

A line for every answer: whether it was right, and whether memory is in use. With USER, a number, it
becomes that user first; HOST is a token in hexadecimal digits that it takes for its own host's.
"""

from __future__ import annotations

import encodings.idna  # noqa: F401 - another user may not be allowed to read it later
import os
import sys

import numpy as np

import client.policy_client
from client import ZmqPolicyClient


def main(port: int, policy: str, other: str = "") -> None:
    """Ask for ever."""
    if other.isdecimal():
        os.setgroups([])
        os.setuid(int(other))
    elif other:
        vars(client.policy_client)["host_token"] = lambda: bytes.fromhex(other)
    with ZmqPolicyClient("127.0.0.1", port, policy=policy, timeout_s=60.0) as robot:
        for turn in range(10**9):
            image = np.full((224, 224, 3), turn % 256, np.uint8)
            seen = robot.infer({"image": image, "turn": turn})["seen"]
            is_right = seen["turn"] == turn and np.array_equal(seen["image"], image)
            print(int(is_right), int(robot.uses_shared_memory), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
