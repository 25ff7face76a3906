"""`python -m benchmarks.lan`: round trips over a LAN, beside openpi's, and a link that drops.

The robot, the broker and the worker are on hosts of their own, which are network namespaces with
links of some rate, delay and loss between them (netem, or where the kernel has none an emulator).
Ours with the broker on the worker's host, and on a third, with images as bytes and as JPEG files;
openpi's client and server as they come, and raw TCP, the floor, both directly to the worker's host.
The policy answers at once. Then a link is dropped for 2 s while a robot asks. Needs root and
iproute2; takes ten minutes. Run it on a quiet machine. Exit code 1: a bar is missed, 2: this
machine or an option does not allow it, 3: a peer failed.
"""

from __future__ import annotations

from conf.flags import INTERRUPTED, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.figures import table
from benchmarks.lan import outage
from benchmarks.lan.links import Link, LinkError
from benchmarks.lan.network import Network, check
from benchmarks.lan.options import LanPlan, make_plan, parser
from benchmarks.lan.plot import draw
from benchmarks.lan.report import Measured, figures, latency_table, others, ratios, save
from benchmarks.neighbours import BUSY
from benchmarks.transport.loopback import allowed
from benchmarks.transport.plan import measure
from scripts.local.processes import ProcessError

LOGS = Path("outputs/lan")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns the exit code.

    0 measured, 1 a bar is missed, 2 not possible here, 3 a peer failed, 130 interrupted.
    """
    options = parser(__doc__).read(arguments)
    plan = make_plan(options)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        check(pinned=not options.unpinned)
        with (
            allowed(plan.congestion),
            Progress(*columns, TimeElapsedColumn(), console=console) as progress,
        ):
            bar = progress.add_task("", total=plan.steps())
            measured = [
                _on(
                    link,
                    plan,
                    lambda what, done: progress.update(bar, description=what, advance=done),
                )
                for link in plan.links
            ]
    except LinkError as error:
        print(error, file=sys.stderr)
        return 2
    except (ProcessError, CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("interrupted: processes, links and hosts are gone, nothing is saved", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    save(options.json, measured, plan.congestion)
    draw(measured, options.json.with_suffix(".png"))
    _report(measured)
    return 0 if all(figure.passes for figure in figures(measured)) else 1


def _on(link: Link, plan: LanPlan, progress: Callable[[str, int], None]) -> Measured:
    """All that is measured on one link."""
    logs = LOGS / link.name.replace("/", "-").replace(" ", "-")

    def told(what: str, done: int) -> None:
        progress(f"{link.name}: {what}", done)

    told("making hosts", 0)
    with Network(link, logs, plan.congestion) as network:
        found = Measured(link, network.kind)
        if plan.latency is not None:
            found.cells = measure(plan.latency, logs / "turns", told, network.site())
        if scenarios := plan.scenarios_on(link):
            told("dropping it", 0)
            size = plan.latency.sizes[0] if plan.latency else "aloha"
            step = partial(told, "dropping it", 1)
            found.outages = outage.drop(network, scenarios, size, logs / "drops", step)
    return found


def _report(measured: Sequence[Measured]) -> None:
    # The whole width even where stdout is a file: a cut table is of no use.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    for each in measured:
        if each.cells:
            console.print(latency_table(each))
    for each in measured:
        if each.outages:
            console.print(outage.table(each.link.name, each.outages))
            for line in (line for one in each.outages for line in outage.said(one)):
                console.print(f"  {line}", soft_wrap=True)
    if (busy := others(measured)) > BUSY:
        console.print(f"NOT QUIET: other processes kept {busy:.2f} cores busy meanwhile")
    for line in ratios(measured):
        console.print(line, soft_wrap=True)
    if held := figures(measured):
        console.print(table("what has a bar", held))


if __name__ == "__main__":
    run_command(main)
