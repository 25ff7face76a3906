"""Makes the training data of the tiny model: an expert's episodes in the ALOHA simulator.

    python -m scripts.tiny.collect --task transfer --episodes 1200 --output outputs/tiny

Each episode is a file, decided by its seed alone; those that are there already are not made again.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from scripts.tiny.episodes import FIRST_TRAINING_SEED, demonstrate
from scripts.tiny.expert import Expert
from scripts.tiny.scene import TASKS, Scene

INTERRUPTED = 130

_workplace: tuple[Scene, Expert] | None = None


def collect(task: str, episodes: int, output: Path, processes: int, console: Console) -> int:
    """Make what is missing of so many episodes; returns how many there are in which it succeeded.

    Raises:
        OSError: `output` cannot be written to.
    """
    folder = output / task
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:06d}.npz" for number in range(episodes)]
    missing = [(number, path) for number, path in enumerate(paths) if not path.exists()]
    columns = (TextColumn(task), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # Spawned: a forked process would inherit a renderer that only its parent can use.
    context = multiprocessing.get_context("spawn")
    with (
        Progress(*columns, console=console) as progress,
        context.Pool(processes, _prepare, [task]) as pool,
    ):
        bar = progress.add_task("", total=episodes, completed=episodes - len(missing))
        for _ in pool.imap_unordered(_make, missing):
            progress.advance(bar)
    return sum(_succeeded(path) for path in paths)


def _prepare(task: str) -> None:
    global _workplace
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    scene = Scene(TASKS[task])
    _workplace = scene, Expert(TASKS[task], scene.physics.model.ptr)


def _make(job: tuple[int, Path]) -> None:
    if _workplace is None:
        raise RuntimeError("an episode was asked for before its process had a simulator")
    number, path = job
    demonstrate(*_workplace, FIRST_TRAINING_SEED + number).save(path)


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
    options = parser.parse_args(arguments)
    if options.episodes < 1 or options.processes < 1:
        parser.error("--episodes and --processes must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, or 130 after Ctrl-C, after which the same command goes on."""
    options, console = _parse(arguments), Console(highlight=False)
    try:
        for task in options.task or TASKS:
            there = collect(task, options.episodes, options.output, options.processes, console)
            console.print(f"{task}: {there} of {options.episodes} episodes succeeded")
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from here")
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
