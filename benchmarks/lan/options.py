"""What `python -m benchmarks.lan` can be asked for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lan.links import LINKS, Link
from benchmarks.lan.outage import SCENARIOS, Scenario
from benchmarks.transport.observations import LAYOUTS
from benchmarks.transport.options import at_least_one, rate
from benchmarks.transport.plan import Plan
from benchmarks.transport.teams import FAR, PEERS
from conf.flags import Flags

RESULT = Path("benchmarks/results/lan.json")
ALL_PEERS = {**PEERS, **FAR}
_USUAL_PEERS = (
    *("ours", "ours, JPEG", "ours, JPEG 75"),
    *("ours, broker apart", "ours, broker apart, JPEG", "ours, broker apart, JPEG 75"),
    *("openpi", "raw tcp"),
)
_QUICK_PEERS = ("ours", "ours, broker apart", "openpi")
_AVAILABLE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")


@dataclass(frozen=True)
class LanPlan:
    """What is measured on each of `links`: turns, and then drops."""

    links: Sequence[Link]
    latency: Plan | None
    scenarios: Sequence[Scenario]
    congestion: str

    def scenarios_on(self, link: Link) -> Sequence[Scenario]:
        """The scenarios for a link; none if it differs from another one only by a setting."""
        return self.scenarios if link.slow_start_after_idle else ()

    def steps(self) -> int:
        """Turns and drops on all links together."""
        turns = self.latency.turns() if self.latency else 0
        return sum(turns + len(self.scenarios_on(link)) for link in self.links)


def parser(about: str | None) -> Flags:
    """For the command line. `--help` shows `about`."""
    result = Flags("python -m benchmarks.lan", about)
    add = result.add_argument
    add("--quick", action="store_true", help="a quarter of a minute, to see that it works")
    add("--links", nargs="+", choices=LINKS, help="between the hosts (all)")
    add("--sizes", nargs="+", choices=LAYOUTS, help="of the observation (aloha)")
    add("--rates", nargs="+", type=rate, help="of the robot in Hz, 0: back to back (0 50 10)")
    add(
        "--peers",
        nargs="+",
        choices=ALL_PEERS,
        help="who takes turns (ours in all ways but by memory, openpi, raw tcp)",
    )
    add("--only", choices=("turns", "drops"), help="measure latencies, or drop links (both)")
    add("--unpinned", action="store_true", help="let robots and servers share cores")
    add("--seconds", type=rate, help="of a turn (1.5)")
    add("--rounds", type=at_least_one, help="turns of each (4)")
    add("--congestion", help="TCP's congestion control on the hosts (cubic, or reno)")
    add("--json", type=Path, default=RESULT, help=f"results, a .png beside them ({RESULT})")
    return result


def make_plan(options: argparse.Namespace) -> LanPlan:
    """What was asked for; single options win over `--quick`."""
    quick = options.quick
    peers = _QUICK_PEERS if quick else _USUAL_PEERS
    latency = Plan(
        peers=options.peers or list(peers),
        sizes=options.sizes or ["aloha"],
        robots=[1],
        rates_hz=options.rates or ([0.0, 50.0] if quick else [0.0, 50.0, 10.0]),
        pinned=(not options.unpinned,),
        seconds=options.seconds or (0.2 if quick else 1.5),
        rounds=options.rounds or (1 if quick else 4),
        split=True,
    )
    return LanPlan(
        links=[LINKS[name] for name in options.links or (["1g"] if quick else LINKS)],
        latency=None if options.only == "drops" else latency,
        scenarios=() if options.only == "turns" else SCENARIOS[: 2 if quick else None],
        congestion=options.congestion or usual_congestion(_AVAILABLE.read_text()),
    )


def usual_congestion(available: str) -> str:
    """Cubic, which hosts come with, where this kernel has it, else reno.

    On links as short as these cubic keeps to what reno does (RFC 9438, 4.3).
    """
    return "cubic" if "cubic" in available.split() else "reno"
