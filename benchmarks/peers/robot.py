"""`python -m benchmarks.peers.robot MODULE PORT SIZE`: takes turns as told, until its input ends.

A line of JSON in, a `Turn`, is answered with a line of JSON out, what was `Taken`. The first line
out says that the server answered as it should.
"""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import asdict
from typing import Any

from benchmarks.observations import ACTIONS, make_observation
from benchmarks.pacing import Turn, take


def main(module: str, port: int, size: str) -> None:
    """Connect, say so, take turns."""
    prepare = importlib.import_module(f"benchmarks.peers.{module}").connect(port)
    ask = prepare(make_observation(size))
    actions = ask()
    if (actions.shape, actions.dtype) != (ACTIONS.shape, ACTIONS.dtype):
        raise RuntimeError(f"{module} answers {actions.dtype} of shape {actions.shape}")
    _say({"connected": module})
    for line in sys.stdin:
        _say(asdict(take(ask, Turn(**json.loads(line)))))


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
