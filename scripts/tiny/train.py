"""Trains the tiny model on demonstrations, and writes a checkpoint that a worker serves.

    python -m scripts.tiny.train --data outputs/tiny --output outputs/tiny/checkpoint
    python -m worker env=aloha_sim model=tiny checkpoint=outputs/tiny/checkpoint

With `--refine CHECKPOINT` it goes on from other weights of the same kind, those that ship for
example (`--refine worker/assets/tiny_aloha_sim`): the action expert alone learns, with the
checkpoint's statistics, on prefixes that are computed once.

If it is interrupted, the same command continues from the last state that was saved.
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
from worker.errors import CheckpointError
from worker.runtime.threads import ENVIRONMENT

INTERRUPTED = 130
TOLD_EVERY = 50
"""Steps, where the output is a file and has no progress bar."""
SETTINGS = ("env=aloha_sim", "model=tiny")


def train(options: argparse.Namespace, console: Console) -> None:
    """Train, from the last saved state if there is one, and export.

    Raises:
        FileNotFoundError: there are no demonstrations, or no statistics of `--refine`.
        CheckpointError: the weights of `--refine` do not fit, or are damaged.
    """
    config = compose("worker", WorkerConfig, SETTINGS)
    tasks = options.task or list(TASKS)
    statistics = None
    if options.refine is not None:
        statistics = dataset.Statistics.read(
            options.refine / "assets" / config.env.asset_id / "norm_stats.json"
        )
    data = dataset.read(options.data, tasks, config.model.action_horizon, statistics)
    for frames in data.frames:
        console.print(f"{frames.task.name}: {len(frames):,} frames")
    # Only now: torch reads the environment when it is imported.
    import torch

    from scripts.tiny import refining
    from scripts.tiny import training as whole

    torch.set_num_threads(options.threads)
    where = config.model, data, options.steps, options.output
    training: whole.Training
    if options.refine is None:
        training = whole.Training(
            *where,
            batch=options.batch or dataset.BATCH,
            learning_rate=options.learning_rate or whole.LEARNING_RATE,
            threads=options.threads,
        )
    else:
        training = refining.Refining(
            *where,
            options.refine,
            batch=options.batch or refining.FRAMES,
            learning_rate=options.learning_rate or refining.LEARNING_RATE,
            threads=options.threads,
        )
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
        prog="python -m scripts.tiny.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="what collect has written")
    parser.add_argument("--output", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--task", choices=list(TASKS), action="append", help="default: all tasks")
    parser.add_argument("--steps", type=int, default=4500, help="so many (4500)")
    parser.add_argument(
        "--refine", type=Path, metavar="CHECKPOINT", help="go on from these weights, see above"
    )
    parser.add_argument(
        "--batch", type=int, help=f"frames of each task in a step ({dataset.BATCH}; refining: 16)"
    )
    parser.add_argument(
        "--learning-rate", type=float, help="the largest of the cosine (1e-3; refining: 3e-4)"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help=f"all cores: {cores}")
    options = parser.parse_args(arguments)
    if min(options.steps, options.batch or 1, options.threads) < 1 or options.batch == 0:
        parser.error("--steps, --batch and --threads must be at least 1")
    if options.learning_rate is not None and not options.learning_rate > 0.0:
        parser.error("--learning-rate must be more than 0")
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
    except (FileNotFoundError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
