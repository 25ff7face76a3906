"""`python -m scripts.status`: a broker's workers, robots, queues, latencies and counters."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from client import ZmqPolicyClient
from client.errors import PolicyError
from client.policy_client import DEFAULT_PORT

_INTERVAL_S = 1.0
_TIMEOUT_S = 5.0


def render(status: Mapping[str, Any]) -> Group:
    """Everything that the broker told (`broker.status.report`), as tables."""
    waiting, hidden = status["queues"], status["workers_in_all"] - len(status["workers"])
    head = f"broker {status['version']}, up {status['uptime_s']:.0f} s, {len(waiting)} queues"
    if hidden:
        head += f", {hidden} more workers not shown"
    workers = _table(
        "workers",
        status["workers"],
        name="name",
        id="id",
        state="state",
        slots="slots",
        in_hand="in hand",
        mean_ms="mean ms",
        heard_ms_ago="heard ms ago",
    )
    robots = _table(
        "robots, those seen last",
        status["robots"],
        name="name",
        key="key",
        id="id",
        policy="policy",
        requests="requests",
        waiting="waiting",
        in_hand="in hand",
        seen_s_ago="seen s ago",
    )
    queues = _table(
        "queues",
        [{"policy": policy, "waiting": count} for policy, count in waiting.items()],
        policy="policy",
        waiting="waiting",
    )
    latencies = _table(
        f"milliseconds, last {status['window_s']:.0f} s",
        [{"stage": stage, **spread} for stage, spread in status["latency_ms"].items()],
        stage="stage",
        p50="p50",
        p95="p95",
        max="max",
        count="requests",
    )
    counters = _table(
        "counters since the start",
        [{"what": what, "count": count} for what, count in status["counters"].items()],
        what="what",
        count="count",
    )
    return Group(Text(head), workers, robots, queues, latencies, counters)


def _table(title: str, rows: Sequence[Mapping[str, Any]], **columns: str) -> Table:
    """One row per map; `columns` are its keys and their headings."""
    table = Table(*columns.values(), title=title, title_justify="left")
    for row in rows:
        # As plain text: names come from robots and may look like markup.
        table.add_row(*(Text(_cell(row[key])) for key in columns))
    return table


def _cell(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.status",
        description=__doc__,
        epilog="Exit codes: 0 shown, 1 the broker cannot be asked (the reason is told), 2 usage.",
    )
    parser.add_argument("--host", default="localhost", help="the broker's (localhost)")
    parser.add_argument("--port", type=int, default=DEFAULT_PORT, help="its frontend's (8000)")
    parser.add_argument("--key", metavar="FILE", help="an operator's, where the broker asks for it")
    parser.add_argument("--json", action="store_true", help="for programs: one object a line")
    parser.add_argument(
        "--watch",
        action=argparse.BooleanOptionalAction,
        help="again every second, until Ctrl-C (so it does where a terminal shows it)",
    )
    options = parser.parse_args(arguments)
    if options.watch is None:
        options.watch = sys.stdout.isatty() and not options.json
    return options


def _show(client: ZmqPolicyClient, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(client.status()), flush=True)
        while options.watch:
            time.sleep(_INTERVAL_S)
            print(json.dumps(client.status()), flush=True)
    elif options.watch:
        with Live(render(client.status()), auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(_INTERVAL_S)
                live.update(render(client.status()), refresh=True)
    else:
        Console(highlight=False).print(render(client.status()))


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0; 1 where the broker cannot be asked; 130 after Ctrl-C without --watch."""
    options = _parse(arguments)
    try:
        with ZmqPolicyClient(
            options.host,
            options.port,
            timeout_s=_TIMEOUT_S,
            connect_timeout_s=_TIMEOUT_S,
            key=options.key,
        ) as client:
            _show(client, options)
    except (PolicyError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0 if options.watch else 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
