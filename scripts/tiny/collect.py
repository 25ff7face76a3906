"""Makes the training data of the tiny model: an expert's episodes in the ALOHA simulator.

    python -m scripts.tiny.collect --task transfer --episodes 1200 --output outputs/tiny

Each episode is a file that depends on its seed and on `--meeting-...` and `--shadow-pixels` alone;
files that exist are not made again, so that a folder should hold those of one kind. With
`--lerobot FOLDER` all of them are also written as a LeRobot dataset, which needs the extra
`recording`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scripts.recording.export import EXTRA, missing_modules
from scripts.recording.lerobot_dataset import refuse_taken_dataset
from scripts.recording.taken import Taken
from scripts.tiny.episodes import FIRST_TRAINING_SEED, USUAL, Meeting, demonstrate
from scripts.tiny.expert import Expert
from scripts.tiny.scene import TASKS, Scene

INTERRUPTED = 130

_workplace: tuple[Scene, Expert, Meeting] | None = None


@dataclass(frozen=True)
class Style:
    """How episodes are made. A folder holds those of one style: files do not tell which."""

    meeting: Meeting = USUAL
    shadow_pixels: int | None = None
    """Side of the shadow map; None: MuJoCo's."""


DEFAULT_STYLE = Style()


def collect(
    task: str,
    episodes: int,
    output: Path,
    processes: int,
    console: Console,
    style: Style = DEFAULT_STYLE,
) -> int:
    """Make those of so many episodes that are missing; returns how many of all succeeded.

    Raises:
        OSError: `output` cannot be written to.
    """
    (output / task).mkdir(parents=True, exist_ok=True)
    paths = [_path(output, task, number) for number in range(episodes)]
    missing = [(number, path) for number, path in enumerate(paths) if not path.exists()]
    if missing:
        _make_all(task, episodes, missing, processes, console, style)
    return sum(_succeeded(path) for path in paths)


def _make_all(
    task: str,
    episodes: int,
    missing: list[tuple[int, Path]],
    processes: int,
    console: Console,
    style: Style,
) -> None:
    columns = (TextColumn(task), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Spawned: a forked process would inherit a renderer that only its parent can use.
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, console=console) as progress,
        context.Pool(processes, _prepare, [task, style]) as pool,
    ):
        bar = progress.add_task("", total=episodes, completed=episodes - len(missing))
        for _ in pool.imap_unordered(_make, missing):
            progress.advance(bar)


def export(tasks: Sequence[str], episodes: int, data: Path, folder: Path, console: Console) -> int:
    """Write so many episodes of each task as a LeRobot dataset; returns how many succeeded.

    Raises:
        ValueError: none did, or something is in the folder's place that is no dataset.
        OSError: it cannot be written.
    """
    from scripts.tiny.lerobot import write_lerobot

    files = [(task, _path(data, task, number)) for task in tasks for number in range(episodes)]
    columns = (TextColumn(folder.name), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("", total=len(files))
        return write_lerobot(files, folder, lambda: progress.advance(bar))


def _path(output: Path, task: str, number: int) -> Path:
    return output / task / f"{number:06d}.npz"


def _prepare(task: str, style: Style) -> None:
    global _workplace
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    scene = Scene(TASKS[task], style.shadow_pixels)
    _workplace = scene, Expert(TASKS[task], scene.physics.model.ptr), style.meeting


def _make(job: tuple[int, Path]) -> None:
    if _workplace is None:
        raise RuntimeError("an episode was asked for before its process had a simulator")
    (number, path), (scene, expert, meeting) = job, _workplace
    demonstrate(scene, expert, FIRST_TRAINING_SEED + number, meeting).save(path)


def _succeeded(path: Path) -> bool:
    with np.load(path) as file:
        return len(file["steps"]) > 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        prog="python -m scripts.tiny.collect", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--task", choices=list(TASKS), action="append", help="default: all tasks")
    parser.add_argument("--episodes", type=int, default=1200, help="for each task (1200)")
    parser.add_argument("--output", type=Path, required=True, help="folder for the data")
    parser.add_argument("--processes", type=int, default=cores, help=f"all cores: {cores}")
    parser.add_argument(
        "--meeting-frames", type=int, default=0, help="so many more where the hands meet (0)"
    )
    parser.add_argument(
        "--meeting-noise",
        type=float,
        default=USUAL.noise,
        help=f"share of the noise that is left there ({USUAL.noise})",
    )
    parser.add_argument(
        "--shadow-pixels", type=int, help="side of the shadow map; 1024 takes a third less time"
    )
    parser.add_argument(
        "--lerobot", type=Path, metavar="FOLDER", help="write a LeRobot dataset too, or again"
    )
    options = parser.parse_args(arguments)
    if options.episodes < 1 or options.processes < 1:
        parser.error("--episodes and --processes must be at least 1")
    if options.meeting_frames < 0 or not 0.0 <= options.meeting_noise <= 1.0:
        parser.error("--meeting-frames must not be negative, --meeting-noise from 0 to 1")
    if options.shadow_pixels is not None and options.shadow_pixels < 1:
        parser.error("--shadow-pixels must be at least 1")
    if options.lerobot is not None:
        _check_lerobot(parser, options.lerobot)
    return options


def _check_lerobot(parser: argparse.ArgumentParser, folder: Path) -> None:
    """End with a message before hours of work if no dataset can be written there."""
    missing = missing_modules("lerobot")
    if missing:
        parser.error(f"{' and '.join(missing)} cannot be imported: {EXTRA}")
    try:
        refuse_taken_dataset(folder, force=True)
    except Taken as error:
        parser.error(f"--lerobot: {error}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 without a LeRobot dataset, 130 after Ctrl-C: the same command goes on."""
    options, console = _parse(arguments), Console(highlight=False)
    tasks = options.task or list(TASKS)
    meeting = Meeting(options.meeting_frames, options.meeting_noise)
    style = Style(meeting, options.shadow_pixels)
    try:
        for task in tasks:
            there = collect(
                task, options.episodes, options.output, options.processes, console, style
            )
            console.print(f"{task}: {there} of {options.episodes} episodes succeeded")
        if options.lerobot is not None:
            return _export(tasks, options, console)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        return INTERRUPTED
    return 0


def _export(tasks: Sequence[str], options: argparse.Namespace, console: Console) -> int:
    try:
        written = export(tasks, options.episodes, options.output, options.lerobot, console)
    except (ValueError, OSError) as error:
        print(f"no LeRobot dataset was written: {error}", file=sys.stderr)
        return 1
    console.print(f"{options.lerobot}: a LeRobot dataset of {written} episodes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
