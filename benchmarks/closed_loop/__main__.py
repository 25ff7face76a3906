"""How a robot moves over a link that lags: every way to join chunks, at every delay.

    python -m benchmarks.closed_loop                # the scripted expert, in chunks with noise
    python -m benchmarks.closed_loop --policy tiny  # the trained tiny model that ships
    python -m benchmarks.closed_loop --pace         # a real 50 Hz loop against a slow policy
    python -m benchmarks.closed_loop --cost         # what guidance adds to a flow step

The first two drive the ALOHA simulator on a simulated clock: the answer to the observation of
step t is usable from t + delay on, however long it took to compute.
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
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

from benchmarks.closed_loop.archive import Archive
from benchmarks.closed_loop.episodes import METHODS, Record, run_episode
from benchmarks.closed_loop.measures import Row, measure
from benchmarks.closed_loop.pictures import plot_comparison, plot_motion
from benchmarks.closed_loop.setups import Setup, expert, tiny
from benchmarks.machine import describe
from conf.flags import INTERRUPTED
from scripts.tiny.scene import TRANSFER, Scene

RESULTS = Path(__file__).parents[1] / "results"
SHOWN_LINK = "200 ms"


def compare(
    setup: Setup, episodes: int, archive: Archive, output: Path, console: Console
) -> list[Row]:
    """Run everything, print the table and write a results file and pictures to `output`.

    Every cell gets its first episode before any gets its second.
    """
    scene = Scene(TRANSFER)
    cells = [(link, method) for link in setup.links for method in METHODS]
    records: dict[tuple[str, str], list[Record]] = {(k.name, m.name): [] for k, m in cells}
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), console=console) as bar:
        task = bar.add_task("episodes", total=len(cells) * episodes)
        for seed in range(setup.first_seed, setup.first_seed + episodes):
            for link, method in cells:
                key = (setup.digest, link.name, method.name, seed)
                record = archive.get(key)
                if record is None:
                    record = run_episode(scene, setup, method, link, seed)
                    archive.add(key, record)
                records[link.name, method.name].append(record)
                bar.advance(task)
    scene.close()
    rows = [measure(m.name, k.name, k.delay_ms, records[k.name, m.name]) for k, m in cells]
    console.print(table(rows))
    save(setup, rows, {m.name: records[SHOWN_LINK, m.name][0] for m in METHODS}, output)
    return rows


def save(setup: Setup, rows: Sequence[Row], shown: dict[str, Record], output: Path) -> None:
    """Write the results file and both pictures."""
    suffix = "" if setup.name == "expert" else f"_{setup.name}"
    output.mkdir(parents=True, exist_ok=True)
    content = {**describe(), "policy": setup.digest, "rows": [asdict(row) for row in rows]}
    (output / f"closed_loop{suffix}.json").write_text(json.dumps(content, indent=1) + "\n")
    plot_comparison(output / f"closed_loop{suffix}.png", rows)
    plot_motion(output / f"closed_loop{suffix}_motion.png", shown)


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
    parser.add_argument("--policy", choices=("expert", "tiny"), default="expert")
    parser.add_argument("--episodes", type=int, default=10, help="of each cell (10)")
    parser.add_argument("--noise", type=float, default=0.005, help="of the expert, rad (0.005)")
    parser.add_argument(
        "--records", type=Path, help="file with a JSON line for each episode; goes on from there"
    )
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
    """The exit code: 0; 1 where `--pace` missed a bar or `--records` is no such file; or 130."""
    options, console = _parse(arguments), Console(highlight=False, width=140)
    torch.set_num_threads(1)  # chunks of 50 x 14 numbers gain nothing by more
    if options.cost:
        from benchmarks.closed_loop.guidance_cost import measure_costs

        measure_costs(options.repeats, options.output, console)
        return 0
    if options.pace:
        from benchmarks.closed_loop.pace import pace

        return pace(options.seconds, options.output, console)
    try:
        archive = Archive(options.records)
        setup = tiny() if options.policy == "tiny" else expert(options.noise)
        compare(setup, options.episodes, archive, options.output, console)
    except (ValueError, OSError) as error:
        console.print(str(error))
        return 1
    except KeyboardInterrupt:
        console.print("stopped; with --records the same command goes on from here")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
