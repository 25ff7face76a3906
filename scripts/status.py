"""`python -m scripts.status`: a broker's workers, robots, queues, latencies and counters."""

from __future__ import annotations

from conf.flags import LARGEST_PORT, Flags, between, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from client import ZmqPolicyClient
from client.errors import PolicyError
from client.policy_client import DEFAULT_PORT

_INTERVAL_S = 1.0
_TIMEOUT_S = 5.0
_SOON_S = 2.0  # the longest wait for an answer while we watch


def render(status: Mapping[str, Any], console: Console | None = None, trouble: str = "") -> Group:
    """Everything in the broker's report (`broker.status.report`), as tables.

    Args:
        status: the last report.
        console: the tables are cut to fit its screen; by default they are not cut.
        trouble: why there is no newer report, if there is none.
    """
    waiting, hidden = status["queues"], status["workers_in_all"] - len(status["workers"])
    head = f"broker {status['version']}, up {status['uptime_s']:.0f} s, {len(waiting)} queues"
    if hidden:
        head += f", {hidden} more workers not shown"
    latencies = _table(
        f"milliseconds, last {status['window_s']:.0f} s",
        [{"stage": stage, **spread} for stage, spread in status["latency_ms"].items()],
        stage="stage",
        p50="p50",
        p95="p95",
        max="max",
        count="requests",
    )
    counters = [Text(f"{what} {count}  ") for what, count in status["counters"].items()]
    top: list[RenderableType] = [
        *([Text(trouble, "bold red")] if trouble else []),
        Text(head),
        latencies,
        Text("counters since the start", "bold"),
        Columns(counters),
    ]
    lists = _lists(status)
    shares = [len(rows) for _, rows, _ in lists]
    if console is not None:
        left = console.height - len(console.render_lines(Group(*top)))
        shares = fair_shares(shares, left)
    tables = []
    for (title, rows, columns), share in zip(lists, shares, strict=True):
        if share < len(rows):
            title = f"{title} ({len(rows) - share} of {len(rows)} left out: --json has them)"
        tables.append(_table(title, rows[:share], **columns))
    return Group(*top, *tables)


def _lists(status: Mapping[str, Any]) -> list[tuple[str, Sequence[Any], dict[str, str]]]:
    """What can be longer than a screen: title, rows, and the rows' keys with their headings."""
    queues = [{"policy": policy, "waiting": count} for policy, count in status["queues"].items()]
    policies = status.get("policies", {})
    paces = [
        {"policy": policy, **record["latency_ms"]}
        for policy, record in policies.items()
        if record.get("latency_ms")
    ]
    every = [
        (
            f"milliseconds by policy, last {status['window_s']:.0f} s",
            paces,
            {"policy": "policy", "p50": "p50", "p95": "p95", "max": "max", "count": "requests"},
        ),
        ("queues", queues, {"policy": "policy", "waiting": "waiting"}),
        (
            "teams",
            [_team(each) for each in status.get("teams", ())],
            {
                "name": "name",
                "weight": "weight",
                "in_hand": "in hand",
                "live_s": "live s",
                "evaluation_s": "evaluation s",
                "refused": "refused",
            },
        ),
        (
            "workers",
            status["workers"],
            {
                "name": "name",
                "id": "id",
                "state": "state",
                "slots": "slots",
                "in_hand": "in hand",
                "mean_ms": "mean ms",
                "heard_ms_ago": "heard ms ago",
            },
        ),
        (
            "robots, those seen last",
            status["robots"],
            {
                "name": "name",
                "key": "key",
                "id": "id",
                "policy": "policy",
                "requests": "requests",
                "held": "held",
                "waiting": "waiting",
                "in_hand": "in hand",
                "seen_s_ago": "seen s ago",
            },
        ),
    ]
    told = [
        {"policy": policy, "outcome": outcome, "rule": rule, "actions": count}
        for policy, record in policies.items()
        for outcome, rules in record.get("guards", {}).items()
        for rule, count in rules.items()
    ]
    headings = {"policy": "policy", "outcome": "were", "rule": "joint/rule", "actions": "actions"}
    every.append(("actions that broke a guard's rule", told, headings))
    held = [
        {"policy": policy, "held": record["held"]}
        for policy, record in policies.items()
        if record.get("held")
    ]
    every.append(("steps held, by policy", held, {"policy": "policy", "held": "steps"}))
    return [each for each in every if each[1]]


def _team(team: Mapping[str, Any]) -> dict[str, Any]:
    spent = {f"{traffic}_s": seconds for traffic, seconds in team["inference_s"].items()}
    refused = ", ".join(f"{quota} {count}" for quota, count in team["refused"].items())
    return {**team, **spent, "name": team["name"] or "(none)", "refused": refused}


def fair_shares(wanted: Sequence[int], lines: int) -> list[int]:
    """How many rows each list gets of a screen's lines: equal shares, but no more than it wants."""
    shares = [0] * len(wanted)
    left = lines - 2 * len(wanted)  # title and headings
    while left > 0 and (hungry := [i for i, most in enumerate(wanted) if shares[i] < most]):
        for index in hungry[:left]:
            shares[index] += 1
            left -= 1
    return shares


def _table(title: str, rows: Sequence[Mapping[str, Any]], **columns: str) -> Table:
    """One row per map, each on one line; `columns` are its keys and their headings."""
    table = Table(title=Text(title, "bold"), title_justify="left", box=None, pad_edge=False)
    for heading in columns.values():
        table.add_column(heading, no_wrap=True, header_style="dim")
    for row in rows:
        # As plain text: names come from robots and may look like markup.
        # An older broker tells less.
        table.add_row(*(Text(_cell(row.get(key, ""))) for key in columns))
    return table


def _cell(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Flags(
        "python -m scripts.status",
        __doc__,
        "Exit codes: 0 shown, 1 the broker cannot be asked (the reason is told), 2 usage.",
    )
    parser.add_argument("--host", default="localhost", help="the broker's (localhost)")
    parser.add_argument(
        "--port",
        type=between(1, LARGEST_PORT),
        default=DEFAULT_PORT,
        help=f"of its frontend ({DEFAULT_PORT})",
    )
    parser.add_argument("--key", metavar="FILE", help="an operator's, where the broker asks for it")
    parser.add_argument("--json", action="store_true", help="for programs: one object a line")
    parser.add_argument(
        "--watch",
        action=argparse.BooleanOptionalAction,
        help="again every second, until Ctrl-C (so it does where a terminal shows it)",
    )
    options = parser.read(arguments)
    if options.watch is None:
        options.watch = sys.stdout.isatty() and not options.json
    return options


def _show(client: ZmqPolicyClient, options: argparse.Namespace) -> None:
    status = client.status()
    if options.json:
        print(json.dumps(status), flush=True)
    elif not options.watch:
        Console(highlight=False).print(render(status))
    if not options.watch:
        return
    if options.json:
        for answer in _answers(client):
            if isinstance(answer, PolicyError):
                print(_trouble(answer), file=sys.stderr, flush=True)
            else:
                print(json.dumps(answer), flush=True)
        return
    console = Console(highlight=False)
    with Live(render(status, console), console=console, auto_refresh=False, screen=True) as live:
        for answer in _answers(client):
            trouble = ""
            if isinstance(answer, PolicyError):
                trouble = f"this is old: {_trouble(answer)}"
            else:
                status = answer
            live.update(render(status, console, trouble), refresh=True)


def _answers(client: ZmqPolicyClient) -> Iterator[dict[str, Any] | PolicyError]:
    """Every second, the broker's report, or why there is none; a lost broker may come back."""
    while True:
        time.sleep(_INTERVAL_S)
        try:
            yield client.status()
        except PolicyError as error:
            yield error


def _trouble(error: PolicyError) -> str:
    return f"{type(error).__name__}: {error}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 1 if the broker cannot be asked. With --watch, Ctrl-C ends it."""
    options = _parse(arguments)
    try:
        with ZmqPolicyClient(
            options.host,
            options.port,
            timeout_s=_SOON_S if options.watch else _TIMEOUT_S,
            connect_timeout_s=_TIMEOUT_S,
            key=options.key,
        ) as client:
            _show(client, options)
    except (PolicyError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        if not options.watch:
            raise
    return 0


if __name__ == "__main__":
    run_command(main)
