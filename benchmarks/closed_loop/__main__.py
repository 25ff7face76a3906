"""How a robot moves over a link that lags: every way to join chunks, at every delay.

    python -m benchmarks.closed_loop                # simulated clock: the same on every machine
    python -m benchmarks.closed_loop --pace         # a real 50 Hz loop against a slow policy
    python -m benchmarks.closed_loop --cost         # what guidance adds to a flow step

The first drives the ALOHA simulator; the answer to the observation of step t is usable from
t + delay on. The policy is the scripted expert, served in chunks with a noise of their own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.closed_loop.episodes import METHODS, Record, run_episode
from benchmarks.closed_loop.expert_policy import ExpertPolicy
from benchmarks.closed_loop.links import all_links
from benchmarks.closed_loop.measures import Row, measure
from benchmarks.closed_loop.pictures import plot_comparison, plot_motion
from benchmarks.machine import describe
from scripts.tiny.scene import TRANSFER, Scene

RESULTS = Path(__file__).parents[1] / "results"
SHOWN_LINK = "200 ms"


def compare(episodes: int, noise_rad: float, output: Path, console: Console) -> list[Row]:
    """Run everything, print the table and write `closed_loop.json` and pictures to `output`."""
    scene, policy = Scene(TRANSFER), ExpertPolicy(noise_rad)
    links, rows, shown = all_links(), [], dict[str, Record]()
    with Progress(console=console) as progress:
        bar = progress.add_task("", total=len(links) * len(METHODS) * episodes)
        for link in links:
            for method in METHODS:
                records = []
                for seed in range(episodes):
                    records.append(run_episode(scene, policy, method, link, seed))
                    progress.advance(bar)
                rows.append(measure(method.name, link.name, link.delay_ms, records))
                if link.name == SHOWN_LINK:
                    shown[method.name] = records[0]
    scene.close()
    console.print(table(rows))
    output.mkdir(parents=True, exist_ok=True)
    content = {**describe(), "noise_rad": noise_rad, "rows": [asdict(row) for row in rows]}
    (output / "closed_loop.json").write_text(json.dumps(content, indent=1) + "\n")
    plot_comparison(output / "closed_loop.png", rows)
    plot_motion(output / "closed_loop_motion.png", shown)
    return rows


def table(rows: Sequence[Row]) -> Table:
    """A line for each method and link."""
    columns = ("link", "method", "success", "reward", "done, s", "starved", "age, ms")
    result = Table(*columns, "oldest", "seam, rad", "inside", "ratio", "jerk ratio")
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before.link != row.link:
            result.add_section()
        result.add_row(
            row.link,
            row.method,
            f"{row.successes}/{row.episodes}",
            f"{row.mean_reward:.2f}",
            "" if row.seconds_to_done is None else f"{row.seconds_to_done:.2f}",
            f"{row.starved_steps:.1f}",
            f"{row.age_ms:.0f}",
            f"{row.oldest_ms:.0f}",
            f"{row.seam_jump_rad:.4f}",
            f"{row.inside_change_rad:.4f}",
            f"{row.seam_ratio:.2f}",
            f"{row.seam_jerk / row.inside_jerk:.2f}",
        )
    return result


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.closed_loop", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--episodes", type=int, default=10, help="of each cell (10)")
    parser.add_argument("--noise", type=float, default=0.005, help="of each chunk, rad (0.005)")
    parser.add_argument("--output", type=Path, default=RESULTS, help=f"folder ({RESULTS})")
    parser.add_argument("--pace", action="store_true", help="a real loop on a real clock instead")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each real loop (20)")
    parser.add_argument("--cost", action="store_true", help="what guidance adds to a flow step")
    parser.add_argument("--repeats", type=int, default=21, help="of each flow step (21)")
    options = parser.parse_args(arguments)
    if (
        min(options.episodes, options.repeats) < 1
        or not options.noise > 0
        or not options.seconds > 0
    ):
        parser.error(
            "--episodes and --repeats must be at least 1, --noise and --seconds more than 0"
        )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 1 where `--pace` missed a bar."""
    options, console = _parse(arguments), Console(highlight=False, width=140)
    if options.cost:
        from benchmarks.closed_loop.guidance_cost import measure_costs

        measure_costs(options.repeats, options.output, console)
        return 0
    torch.set_num_threads(1)  # chunks of 50 x 14 numbers gain nothing by more
    if options.pace:
        from benchmarks.closed_loop.pace import pace

        return pace(options.seconds, options.output, console)
    compare(options.episodes, options.noise, options.output, console)
    return 0


if __name__ == "__main__":
    sys.exit(main())
