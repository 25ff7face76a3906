"""A link is dropped for two seconds while a robot asks: what it sees, and what servers say."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from benchmarks.lan.network import Network
from benchmarks.peers.witness import Asked
from benchmarks.transport.teams import CONNECT_S, Team
from scripts.local.processes import Process, Processes

DOWN_S = 2.0
RATE_HZ = 10.0
PATIENCE_S = 20.0  # after the link is back, for an answer
_BEFORE_S, _AFTER_S = 1.0, 0.2
_LOOK_S = 0.1
_ANSWER_S = 10.0  # for the witness to tell
_MOST_LINES = 12  # of each server's log
_SAID = re.compile(
    r"(?:INFO|WARNING|ERROR) \w+: (.*?)(?: \w+='.*)?$"
)  # without when and about what


@dataclass(frozen=True)
class Scenario:
    """Who asks, with how much time for a request, and between which hosts the link is dropped."""

    name: str
    peer: str
    link: tuple[str, str]
    timeout_s: float = 10.0  # ours only: openpi's client has no such limit


SCENARIOS = (
    Scenario("ours", "ours", ("robot", "worker")),
    Scenario("openpi", "openpi", ("robot", "worker")),
    Scenario("ours, 0.3 s a request", "ours", ("robot", "worker"), 0.3),
    Scenario("ours, worker's link", "ours, broker apart", ("broker", "worker")),
    Scenario("ours, worker's link, 0.3 s", "ours, broker apart", ("broker", "worker"), 0.3),
)


@dataclass(frozen=True)
class Outage:
    """What came of one drop. Times in seconds."""

    scenario: str
    errors: dict[str, int]  # by type, of what was asked before an answer came again
    slowest_s: float  # of the answers around it
    served_again_s: float | None  # from the link's return to the first answer; None: not in time
    hanging_s: float  # how long the last request had been under way when we stopped looking
    logged: dict[str, list[str]]  # by each server meanwhile


def drop(
    network: Network, scenarios: Sequence[Scenario], size: str, logs: Path, step: Callable[[], None]
) -> list[Outage]:
    """Drop a link for each scenario in turn, calling `step` after each.

    Raises:
        ProcessError: a peer did not start or ended.
        LinkError: the link could not be dropped.
    """
    found = []
    site = network.site()
    with Processes(logs) as processes:
        peers = dict.fromkeys(scenario.peer for scenario in scenarios)
        teams = {peer: Team(peer, 0, size, processes, site) for peer in peers}
        for scenario in scenarios:
            team = teams[scenario.peer]
            witness = team.witness(RATE_HZ, scenario.timeout_s)
            witness.answer(CONNECT_S)
            found.append(_drop(network, scenario, team, witness))
            witness.kill()
            step()
    return found


def _drop(network: Network, scenario: Scenario, team: Team, witness: Process) -> Outage:
    time.sleep(_BEFORE_S)
    before, down = team.logged(), time.monotonic()
    network.cut(*scenario.link)
    time.sleep(max(0.0, down + DOWN_S - time.monotonic()))
    network.mend(*scenario.link)
    up = time.monotonic()
    while time.monotonic() < up + PATIENCE_S and served_again(_told(witness), up) is None:
        time.sleep(_LOOK_S)
    time.sleep(_AFTER_S)
    asked, now = _told(witness), time.monotonic()
    logged = {
        server: lines[len(before[server]) :][:_MOST_LINES]
        for server, lines in team.logged().items()
    }
    return summary(scenario.name, asked, down, up, now, logged)


def _told(witness: Process) -> list[Asked]:
    witness.tell({})
    return [Asked(**each) for each in witness.answer(_ANSWER_S)["asked"]]


def served_again(asked: Sequence[Asked], up: float) -> float | None:
    """Seconds from `up` to the first answer after it; None if there was none yet."""
    ends = (each.at_s + each.took_s for each in asked if each.took_s is not None and not each.error)
    return min((end - up for end in ends if end >= up), default=None)


def summary(
    scenario: str,
    asked: Sequence[Asked],
    down: float,
    up: float,
    now: float,
    logged: dict[str, list[str]],
) -> Outage:
    """What the robot saw from `down` until it was served again after `up`; `now` is the end."""
    again = served_again(asked, up)
    until = now if again is None else up + again
    touched = [
        each
        for each in asked
        if each.at_s <= until and (each.took_s is None or each.at_s + each.took_s >= down)
    ]
    took = [each.took_s for each in touched if each.took_s is not None and not each.error]
    hanging = [now - each.at_s for each in touched if each.took_s is None]
    return Outage(
        scenario,
        dict(Counter(each.error for each in touched if each.error)),
        max(took, default=0.0),
        again,
        max(hanging, default=0.0),
        logged,
    )


def said(outage: Outage) -> Iterator[str]:
    """What each server said, once."""
    for server, lines in outage.logged.items():
        found = (_SAID.search(line) for line in lines)
        for text in dict.fromkeys(each[1] for each in found if each):
            yield f"{outage.scenario}: {server}: {text}"


def table(link: str, outages: Sequence[Outage]) -> Table:
    """A row for each scenario."""
    result = Table(title=f"{link}: dropped for {DOWN_S:g} s, a robot at {RATE_HZ:g} Hz")
    result.title_justify = "left"
    for name in ("who", "errors", "slowest answer", "served again after"):
        result.add_column(name)
    for each in outages:
        errors = ", ".join(f"{count} {kind}" for kind, count in each.errors.items()) or "none"
        again = "" if each.served_again_s is None else f"{each.served_again_s:.2f} s"
        hangs = f"not: one hangs for {each.hanging_s:.0f} s" if each.hanging_s else "not"
        result.add_row(each.scenario, errors, f"{each.slowest_s:.2f} s", again or hangs)
    return result
