"""Trains the tiny model on demonstrations, and writes a checkpoint that a worker serves.

    python -m scripts.tiny.train --data outputs/tiny --output outputs/tiny/checkpoint
    python -m worker env=aloha_sim model=tiny checkpoint=outputs/tiny/checkpoint

Interrupted, the same command goes on from the last state that it saved.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from conf.compose import compose
from scripts.tiny import dataset
from scripts.tiny.scene import TASKS
from worker.config import WorkerConfig
from worker.runtime.threads import ENVIRONMENT

INTERRUPTED = 130
TOLD_EVERY = 50
"""Steps, where the output is a file and has no progress bar."""
SETTINGS = ("env=aloha_sim", "model=tiny")


def train(options: argparse.Namespace, console: Console) -> None:
    """Train to the end, or go on with what is there, and export.

    Raises:
        FileNotFoundError: there are no demonstrations.
    """
    config = compose("worker", WorkerConfig, SETTINGS)
    tasks = options.task or list(TASKS)
    data = dataset.read(options.data, tasks, config.model.action_horizon)
    for frames in data.frames:
        console.print(f"{frames.task.name}: {len(frames):,} frames")
    # Only now: torch reads the environment when it is imported.
    import torch

    from scripts.tiny.training import Training

    torch.set_num_threads(options.threads)
    training = Training(config.model, data, options.steps, options.output)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        bar = progress.add_task("training", total=options.steps, completed=training.step)
        while training.step < options.steps:
            told = training.advance()
            progress.update(bar, completed=training.step, description=told)
            if not console.is_terminal and training.step % TOLD_EVERY == 0:
                console.print(f"step {training.step}: {told}")
    training.export(config.env.asset_id)
    console.print(f"{options.output} is a checkpoint; loss.png shows how it learnt")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.tiny.train", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, help="what collect has written")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--task", choices=list(TASKS), action="append", help="default: all tasks")
    parser.add_argument("--steps", type=int, default=4500, help="of 32 frames each (4500)")
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help=f"all cores: {cores}")
    options = parser.parse_args(arguments)
    if options.steps < 1 or options.threads < 1:
        parser.error("--steps and --threads must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0; 1 without data; 130 after Ctrl-C."""
    options, console = _parse(arguments), Console(highlight=False)
    os.environ.update(ENVIRONMENT | os.environ)
    try:
        train(options, console)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on from the last saved state")
        return INTERRUPTED
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
