"""A policy's version is changed under load: what robots notice, and how soon a bad one is back.

    python -m benchmarks.rollout

Robots in episodes of five requests ask two workers of the old version, each of which takes 20 ms.
`python -m scripts.rollout` brings two of the new version: a good one, the same while the broker is
killed and started again, one that fails every request, and one that is four times as slow.
Workers are started on the robots' own machine here, and importing Python packages takes its cores:
on a machine of two cores that is what the slowest answers meanwhile are.
"""

from __future__ import annotations

from conf.flags import INTERRUPTED, Flags, between, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from client.errors import PolicyError
from scripts.local.processes import ProcessError, Processes
from scripts.local.timing import percentile
from tests.scripts.rollout.robots import Robots
from tests.scripts.rollout.site import ROOT, Site

RESULT = Path(__file__).parent / "results" / "rollout.json"
POLICY, WORKERS, INFERENCE_S = "arm", 2, 0.02
ROBOTS, REQUESTS, PERIOD_S = 8, 5, 0.1
_LIMIT_S = 300.0  # of one rollout


@dataclass(frozen=True)
class Case:
    """A new version, and what happens meanwhile."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    kills_broker: bool = False
    exit_code: int = 0


CASES = (
    Case("a good version"),
    Case("the same, and the broker is killed", kills_broker=True),
    Case("a version that fails every request", {"fails": "true"}, exit_code=3),
    Case("a version four times as slow", {"time_s": 4 * INFERENCE_S}, exit_code=3),
)


@dataclass(frozen=True)
class Row:
    """What came of one case.

    Attributes:
        lost: requests that no answer came to, or a wrong one, but for those that the policy failed.
        failed: requests that the new version failed.
        mixed: episodes that were answered by more than one version.
        moved: episodes that the broker had to give to another version.
        to_new: requests that the new version answered.
        took_s: from the first episode with the new version to the last change, by the command.
    """

    case: str
    exit_code: int
    requests: int
    lost: int
    failed: int
    mixed: int
    moved: int
    to_new: int
    took_s: float
    before_p99_ms: float
    during_p99_ms: float
    during_longest_ms: float
    after_p99_ms: float


def play(case: Case, folder: Path, seconds: float) -> Row:
    """One case, with a broker and workers of its own.

    Raises:
        ProcessError: a server did not start, or the rollout ended otherwise than it should.
        client.errors.PolicyError: the broker could not be reached.
    """
    with Processes(folder / "logs") as processes:
        site = Site(processes, folder)
        try:
            for _ in range(WORKERS):
                site.old(POLICY, time_s=INFERENCE_S)
            robots = site.robots(POLICY, ROBOTS, requests=REQUESTS, period_s=PERIOD_S)
            time.sleep(seconds)
            began = time.monotonic()
            code = _roll_out(case, site, robots, seconds)
            ended = time.monotonic()
            time.sleep(seconds)
            return _row(case, code, robots, site.told(POLICY), (began, ended))
        finally:
            site.close()


def _roll_out(case: Case, site: Site, robots: Robots, seconds: float) -> int:
    bounds = ("bounds.latency_factor=2", "bounds.latency_requests=30", "bounds.latency_s=2")
    steps = ("shares=[0.1,0.5,1]", f"step_s={seconds / 2:g}", "step_episodes=2")
    given = {"time_s": INFERENCE_S, **case.arguments}
    words = site.words(POLICY, f"workers={WORKERS}", *bounds, *steps, **given)
    command = [sys.executable, "-m", "scripts.rollout", *words]
    with (site.folder / "rollout.log").open("wb") as log:
        rollout = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)
        try:
            if case.kills_broker:
                _until(lambda: "2" in robots.seen().episodes or rollout.poll() is not None)
                site.broker.kill()
                site.start_broker()
            return rollout.wait(_LIMIT_S)
        except subprocess.TimeoutExpired:
            raise ProcessError(f"{case.name}: the rollout has not ended in time") from None
        finally:
            rollout.kill()
            rollout.wait()


def _row(case: Case, code: int, robots: Robots, told: Any, span: tuple[float, float]) -> Row:
    seen = robots.stop()
    if code != case.exit_code:
        raise ProcessError(f"{case.name}: the rollout ended with {code}: {told['reason']}")
    failed = seen.errors.pop("PolicyFailed", 0)
    began, ended = span

    def took_ms(rank: float, start: float, end: float) -> float:
        took = [seconds for at, seconds, _ in seen.took if start <= at < end]
        return round(percentile(rank)(took) * 1e3, 1)

    return Row(
        case.name,
        code,
        len(seen.took) + failed + sum(seen.errors.values()),
        seen.wrong + sum(seen.errors.values()),
        failed,
        seen.mixed,
        told["moved"],
        sum(version == "2" for _, _, version in seen.took),
        round(sum(step["lasted_s"] for step in told["steps"]), 1),
        took_ms(99, 0.0, began),
        took_ms(99, began, ended),
        took_ms(100, began, ended),
        took_ms(99, ended, float("inf")),
    )


def _until(is_true: Callable[[], object]) -> None:
    give_up = time.monotonic() + _LIMIT_S
    while not is_true():
        if time.monotonic() > give_up:
            raise ProcessError("no episode began with the new version")
        time.sleep(0.02)


def table(rows: Sequence[Row]) -> Table:
    """The rows for a terminal."""
    shown = Table(
        *("case", "requests", "lost", "failed", "mixed", "moved", "by the new", "steps s"),
        *("p99 ms before", "during", "longest", "after"),
    )
    for column in shown.columns[1:]:
        column.justify = "right"
    for row in rows:
        counts = (row.requests, row.lost, row.failed, row.mixed, row.moved, row.to_new)
        times = (row.took_s, row.before_p99_ms, row.during_p99_ms, row.during_longest_ms)
        shown.add_row(
            row.case, *map(str, counts), *(f"{each:.1f}" for each in (*times, row.after_p99_ms))
        )
    return shown


def save(rows: Sequence[Row], seconds: float, path: Path) -> None:
    """Write them with the machine and what was asked."""
    setting = {
        "robots": ROBOTS,
        "requests_per_episode": REQUESTS,
        "period_s": PERIOD_S,
        "workers_of_each_version": WORKERS,
        "inference_s": INFERENCE_S,
        "seconds": seconds,
    }
    content = {**describe(), **setting, "rows": [asdict(row) for row in rows]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and save; 1 where something was lost or mixed, or a server failed."""
    parser = Flags("python -m benchmarks.rollout", __doc__)
    parser.add_argument(
        "--seconds", type=between(1, 600), default=2, help="before and after, and two steps (2)"
    )
    parser.add_argument("--result", type=Path, default=RESULT, help=f"JSON file ({RESULT.name})")
    options = parser.read(arguments)
    console, rows = Console(highlight=False), []
    try:
        for case in CASES:
            with console.status(case.name), tempfile.TemporaryDirectory() as folder:
                rows.append(play(case, Path(folder), float(options.seconds)))
    except KeyboardInterrupt:
        return INTERRUPTED
    except (ProcessError, PolicyError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    save(rows, options.seconds, options.result)
    console.print(table(rows))
    is_clean = not any(row.lost or (row.mixed and not row.failed) for row in rows)
    return 0 if is_clean else 1


if __name__ == "__main__":
    run_command(main)
