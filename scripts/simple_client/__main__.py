"""`python -m scripts.simple_client`: talk to a broker without a robot, and see where time goes.

Sends random observations in the form of one environment and prints a table of latencies.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from rich.console import Console
from rich.progress import track

from client import ZmqPolicyClient
from client.errors import PolicyError
from scripts.local.timing import (
    by_stage,
    latency_table,
    mean,
    percentile,
    sides,
    standard_deviation,
)
from scripts.simple_client.examples import EXAMPLES, make_example

__all__ = ["make_example"]

USAGE = f"""\
usage: python -m scripts.simple_client [key=value ...]

  env=aloha_sim          form of the observations: {", ".join(EXAMPLES)}
  host=localhost         where the broker is
  port=8000              its port for robots
  steps=20               how many observations to send (after a first one that is not counted)
  policy=NAME            which policy to ask for; only needed when the broker serves several
  key=FILE               this robot's key; only needed when the broker asks for one
  seed=0                 of the random observations
  timeout_s=10           how long one answer may take
  connect_timeout_s=10   how long to wait for a broker that is not there yet
"""

STATISTICS = {
    "mean": mean,
    "std": standard_deviation,
    **{f"p{rank}": percentile(rank) for rank in (25, 50, 75, 90, 95, 99)},
}


class UsageError(ValueError):
    """The command line is wrong; the message says what is right."""


@dataclass(frozen=True)
class Settings:
    """The command line. Times in seconds."""

    env: str = "aloha_sim"
    host: str = "localhost"
    port: int = 8000
    steps: int = 20
    policy: str = ""  # none named
    key: str = ""  # none
    seed: int = 0
    timeout_s: float = 10.0
    connect_timeout_s: float = 10.0

    def __post_init__(self) -> None:
        if self.env not in EXAMPLES:
            raise UsageError(f"env={self.env}: {_choose(self.env, list(EXAMPLES))}")
        if not 0 < self.port < 65536:
            raise UsageError(f"port={self.port}: a number from 1 to 65535 is expected")
        if self.steps < 1:
            raise UsageError(f"steps={self.steps}: at least 1 is expected")
        if not (self.timeout_s > 0 and self.connect_timeout_s > 0):  # so that NaN fails too
            raise UsageError("timeout_s and connect_timeout_s: more than 0 seconds are expected")


_EXPECTED = {int: "a whole number", float: "a number", str: "text"}


def _choose(given: str, allowed: Sequence[str]) -> str:
    """What may be given instead, the most alike first if there is one."""
    near = difflib.get_close_matches(given, allowed, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}choose one of {', '.join(allowed)}"


def parse(arguments: Sequence[str]) -> Settings:
    """Read `key=value` words; UsageError names a key that does not exist and the nearest one."""
    values: dict[str, Any] = {}
    names = [field.name for field in fields(Settings)]
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals:
            raise UsageError(f"{argument}: key=value is expected, such as env=aloha_sim")
        if key not in names:
            raise UsageError(f"{key}: no such key; {_choose(key, names)}")
        kind = type(getattr(Settings, key))
        try:
            values[key] = kind(text)
        except ValueError:
            raise UsageError(f"{argument}: {_EXPECTED[kind]} is expected") from None
    return Settings(**values)


def measure(settings: Settings, console: Console) -> list[dict[str, float]]:
    """Send the observations; milliseconds by side for each. PolicyError when one fails."""
    with ZmqPolicyClient(
        settings.host,
        settings.port,
        policy=settings.policy or None,
        key=settings.key or None,
        timeout_s=settings.timeout_s,
        connect_timeout_s=settings.connect_timeout_s,
    ) as client:
        first = client.infer(make_example(settings.env, settings.seed))
        horizon, dimensions = first["actions"].shape
        console.print(f"a chunk is {horizon} actions of {dimensions} numbers each")
        return [
            sides(client.infer(make_example(settings.env, settings.seed + 1 + step)))
            for step in track(range(settings.steps), "sending", console=console)
        ]


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0; 1 when the broker or policy failed; 2 for a wrong command line."""
    if any(argument in ("-h", "--help", "help") for argument in arguments):
        print(USAGE, end="")
        return 0
    console = Console(highlight=False)
    try:
        settings = parse(arguments)
        measured = measure(settings, console)
    except PolicyError as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except ValueError as error:  # UsageError, or a file that is no key
        print(f"{error}\n(--help lists all keys)", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    console.print(f"{settings.steps} requests, env={settings.env}, {settings.host}:{settings.port}")
    console.print(latency_table(by_stage(measured), STATISTICS))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
