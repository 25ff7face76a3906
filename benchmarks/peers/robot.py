"""`python -m benchmarks.peers.robot MODULE HOST PORT SIZE`: takes turns until its input ends.

Each line of JSON on stdin, a `Turn`, is answered with a line on stdout, what was `Taken`. The
first line on stdout says that the server has answered as it should.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from benchmarks.transport.observations import ACTIONS, Answer, make_observation
from benchmarks.transport.pacing import Turn, take

# 16 robots that send 2.8 MB back to back wait for one worker; and it may still be loading.
_TIMEOUT_S = 60.0


def main(module: str, host: str, port: int, size: str) -> None:
    """Connect, say so, take turns."""
    ask = connected(module, host, port, size, _TIMEOUT_S)
    split = getattr(importlib.import_module(f"benchmarks.peers.{module}"), "split", None)
    say({"connected": module})
    for line in sys.stdin:
        say(asdict(take(ask, Turn(**json.loads(line)), split)))


def connected(
    module: str, host: str, port: int, size: str, timeout_s: float
) -> Callable[[], Answer]:
    """The call for one size, once it was answered as it should be.

    Raises:
        RuntimeError: the answer is not a chunk of the benchmark's policy.
    """
    connect = importlib.import_module(f"benchmarks.peers.{module}").connect
    ask: Callable[[], Answer] = connect(host, port, timeout_s)(make_observation(size))
    actions = ask()["actions"]
    if (actions.shape, actions.dtype) != (ACTIONS.shape, ACTIONS.dtype):
        raise RuntimeError(f"{module} answers {actions.dtype} of shape {actions.shape}")
    return ask


def say(message: dict[str, Any]) -> None:
    """One line for the parent."""
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
