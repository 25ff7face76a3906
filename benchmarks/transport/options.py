"""What `python -m benchmarks.transport` can be asked for."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from benchmarks.transport.observations import LAYOUTS
from benchmarks.transport.plan import Plan
from benchmarks.transport.teams import PEERS
from conf.flags import Flags, between

at_least_one = between(1, 64)
rate = between(0, 1000, float)

RESULT = Path("benchmarks/results/transport.json")
_HEADLINE = ("ours", "ours, memory", "ours, JPEG", "sketch", "openpi", "raw tcp")


def parser(about: str | None) -> Flags:
    """For the command line. `--help` shows `about`."""
    result = Flags("python -m benchmarks.transport", about)
    add = result.add_argument
    add(
        "--headline",
        action="store_true",
        help="the figures that have bars: one robot, pinned, and sixteen that ask back to back",
    )
    add("--quick", action="store_true", help="a few seconds, to see that it works")
    add("--sizes", nargs="+", choices=LAYOUTS, help="of the observation (all)")
    add("--clients", nargs="+", type=at_least_one, help="robots at once (1 4 16)")
    add("--rates", nargs="+", type=rate, help="of each robot in Hz, 0: back to back (0 50 10)")
    add("--peers", nargs="+", choices=PEERS, help="who takes part (all)")
    where = result.add_mutually_exclusive_group()
    where.add_argument(
        "--pinned", action="store_true", help="only with robots on one core, the rest on another"
    )
    where.add_argument("--unpinned", action="store_true", help="only without pinning")
    add(
        "--congestion",
        choices=("usual", "own", "both"),
        default="both",
        help="TCP's congestion control: cubic, as most robots have it, in a network namespace "
        "(needs root), the machine's own, or both (both, where root allows)",
    )
    add("--seconds", type=rate, help="of a turn (0.5); slow paces take as long as ten requests")
    add("--rounds", type=at_least_one, help="turns of each for one robot, pinned (6); else a third")
    add("--json", type=Path, default=RESULT, help=f"file for the results ({RESULT})")
    return result


def make_plans(options: argparse.Namespace) -> list[Plan]:
    """What was asked for; single options win over `--headline` and `--quick`."""
    quick = options.quick
    alone = options.headline or quick
    pinned = (True,) if alone or options.pinned else (True, False)
    usual = list(_HEADLINE) if options.headline else list(PEERS)
    plan = Plan(
        peers=options.peers or usual,
        sizes=options.sizes or (["libero"] if quick else list(LAYOUTS)),
        robots=options.clients or ([1] if alone else [1, 4, 16]),
        rates_hz=options.rates or ([0.0, 50.0] if quick else [0.0, 50.0, 10.0]),
        pinned=(False,) if options.unpinned else pinned,
        seconds=options.seconds or (0.2 if quick else 0.5),
        rounds=options.rounds or (1 if quick else 6),
    )
    if not options.headline or quick:
        return [plan]
    crowd = replace(plan, sizes=["libero"], robots=[16], rates_hz=[0.0], pinned=(False,), rounds=12)
    return [plan, crowd]
