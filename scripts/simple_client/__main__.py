"""`python -m scripts.simple_client`: talk to a broker without a robot, and see where time goes.

Sends random observations in the form of one environment and prints a table of latencies.
"""

from __future__ import annotations

from conf.flags import LARGEST_PORT, Flags, between, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import track

from client import ZmqPolicyClient
from client.errors import PolicyError
from client.policy_client import DEFAULT_PORT
from client.wire import LONGEST_MS
from scripts.local.timing import (
    by_stage,
    latency_table,
    mean,
    percentile,
    sides,
    standard_deviation,
)
from scripts.simple_client.examples import EXAMPLES, make_example

STATISTICS = {
    "mean": mean,
    "std": standard_deviation,
    **{f"p{rank}": percentile(rank) for rank in (25, 50, 75, 90, 95, 99)},
}
_SHORTEST_S = 0.001
_MOST_STEPS = 10**9


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options, each of the right type; a wrong command line exits with 2 and says why."""
    flags = Flags(
        "python -m scripts.simple_client",
        __doc__,
        "Exit codes: 0 measured, 1 the broker or the policy failed, 2 the command line.",
    )
    add, seconds = flags.add_argument, between(_SHORTEST_S, LONGEST_MS / 1e3, float)
    add("--env", choices=EXAMPLES, default="aloha_sim", help="form of the observations (aloha_sim)")
    add("--host", default="localhost", help="where the broker is, or several: A,B:8001 (localhost)")
    port = between(1, LARGEST_PORT)
    add("--port", type=port, default=DEFAULT_PORT, help=f"its port for robots ({DEFAULT_PORT})")
    steps = between(1, _MOST_STEPS)
    add("--steps", type=steps, default=20, help="observations to send, after an uncounted one (20)")
    add("--policy", metavar="NAME", help="which to ask for, where the broker serves several")
    add("--key", metavar="FILE", help="this robot's key, where the broker asks for keys")
    add("--seed", type=between(0, 2**63), default=0, help="of the random observations (0)")
    add(
        "--timeout-s",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long one answer may take (10)",
    )
    add(
        "--connect-timeout-s",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="how long to wait for a broker that is not there yet (10)",
    )
    return flags.read(arguments)


def measure(options: argparse.Namespace, console: Console) -> list[dict[str, float]]:
    """Send the observations; milliseconds by side for each.

    Raises:
        PolicyError: one of them was not answered.
        ValueError: the file of `--key` is not a key.
    """
    with ZmqPolicyClient(
        options.host,
        options.port,
        policy=options.policy,
        key=options.key,
        timeout_s=options.timeout_s,
        connect_timeout_s=options.connect_timeout_s,
    ) as client:
        first = client.infer(make_example(options.env, options.seed))
        horizon, dimensions = first["actions"].shape
        console.print(f"a chunk is {horizon} actions of {dimensions} numbers each")
        return [
            sides(client.infer(make_example(options.env, options.seed + 1 + step)))
            for step in track(range(options.steps), "sending", console=console)
        ]


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0; 1 when the broker or policy failed; 2 for a wrong command line."""
    options = parse(arguments)
    console = Console(highlight=False)
    try:
        measured = measure(options, console)
    except PolicyError as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except ValueError as error:  # a file that is no key
        print(error, file=sys.stderr)
        return 2
    console.print(f"{options.steps} requests, {options.env}, {options.host}:{options.port}")
    console.print(latency_table(by_stage(measured), STATISTICS))
    return 0


if __name__ == "__main__":
    run_command(main)
