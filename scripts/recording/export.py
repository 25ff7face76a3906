"""`python -m scripts.record export`: recorded requests for Rerun's viewer and for training.

    python -m scripts.record export recordings --rrd night.rrd
    python -m scripts.record export recordings --lerobot night --policy aloha

It reads one log, or all logs of a folder; of a log that was cut off, all whole requests.
docs/recording.md says what is in the files.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from conf.flags import Flags, between
from scripts.recording.taken import Taken

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from scripts.recording.episodes import Wanted
    from scripts.recording.exchange import Exchange

DEFAULT_HZ = 50.0
_NEEDED = {"rrd": ("rerun",), "lerobot": ("pyarrow", "av")}
EXTRA = "pip install 'zmq-policy-broker[recording]'"


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options; a wrong command line exits with 2 and says why."""
    flags = Flags(
        "python -m scripts.record export",
        __doc__,
        f"It needs an extra: {EXTRA}\n\n"
        "Exit codes: 0 written; 1 there was nothing to write, a log is damaged, or the disk is "
        "full;\n2 usage, an extra is missing, or something is in the way. What is not whole is "
        "removed.",
    )
    add = flags.add_argument
    add("log", type=Path, metavar="LOG", help="a request log, or the folder of several")
    add("--rrd", type=Path, metavar="FILE", help="write a file for Rerun's viewer")
    add("--lerobot", type=Path, metavar="FOLDER", help="write a LeRobot dataset, version 3.0")
    add("--robot", metavar="NAME", help="only what a robot of this name asked")
    add("--policy", metavar="NAME", help="only what was asked of this one")
    add("--session", metavar="NAME", help="only this episode")
    add("--force", action="store_true", help="replace what an export wrote there before")
    add(
        "--control-hz",
        type=between(0.01, 10_000, float),
        default=DEFAULT_HZ,
        metavar="HZ",
        help=f"--rrd: actions a second, by which chunks lie in time ({DEFAULT_HZ:g})",
    )
    add(
        "--fps",
        type=between(1, 1000),
        metavar="N",
        help="--lerobot: frames a second (as often as robots asked, to a whole number)",
    )
    add("--robot-type", metavar="NAME", help="--lerobot: what the dataset calls the robot")
    add(
        "--skip-unlike",
        action="store_true",
        help="--lerobot: leave out episodes with other keys or sizes than the first one",
    )
    options = flags.read(arguments)
    if options.rrd is None and options.lerobot is None:
        flags.error("--rrd FILE or --lerobot FOLDER is needed, or both")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code; `parse` says what they mean."""
    options = parse(arguments)
    missing = [
        module
        for kind in ("rrd", "lerobot")
        if getattr(options, kind) is not None
        for module in missing_modules(kind)
    ]
    if missing:
        print(f"{' and '.join(missing)} cannot be imported: {EXTRA}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        return _export(options)
    except Taken as error:
        print(error, file=sys.stderr)
        return 2
    except (OSError, ValueError) as error:
        print(f"the export failed: {error}", file=sys.stderr)
        return 1


def missing_modules(kind: str) -> list[str]:
    """What has to be installed before an `rrd` or a `lerobot` can be written."""
    return [module for module in _NEEDED[kind] if importlib.util.find_spec(module) is None]


def _export(options: argparse.Namespace) -> int:
    from rich.console import Console

    from scripts.recording.episodes import Wanted
    from scripts.recording.lerobot_dataset import refuse_taken_dataset
    from scripts.recording.request_log import files
    from scripts.recording.rerun_file import refuse_taken_file

    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    wanted = Wanted(options.robot, options.policy, options.session)
    if options.rrd is not None:
        refuse_taken_file(options.rrd, options.force)
    if options.lerobot is not None:
        refuse_taken_dataset(options.lerobot, options.force)
    logs = files(options.log)
    if options.lerobot is not None:
        _write_dataset(options, logs, wanted, console)
    if options.rrd is not None:
        _write_rerun(options, logs, wanted, console)
    return 0


def _write_dataset(
    options: argparse.Namespace, logs: Sequence[Path], wanted: Wanted, console: Console
) -> None:
    from scripts.recording import lerobot_export
    from scripts.recording.episodes import survey

    with _progress(console, "reading") as progress:
        found = survey(logs, wanted, skip_unlike=options.skip_unlike, progress=progress)
    fps = options.fps or lerobot_export.frames_a_second(found.period_s)
    with _progress(console, "writing frames") as progress:
        lerobot_export.write_dataset(
            found,
            options.lerobot,
            fps=fps,
            robot_type=options.robot_type,
            force=options.force,
            progress=progress,
        )
    console.print(
        f"{options.lerobot}: {found.requests()} frames of {len(found.episodes)} episodes, {fps} a"
        " second"
    )
    for reason, count in found.left_out.most_common():
        console.print(f"left out: {count} requests {reason}")


def _write_rerun(
    options: argparse.Namespace, logs: Sequence[Path], wanted: Wanted, console: Console
) -> None:
    from scripts.recording.episodes import NothingToExport
    from scripts.recording.rerun_file import write_rerun

    with _progress(console, "writing requests") as progress:
        exchanges = _reading(logs, wanted, progress)
        count = write_rerun(
            exchanges, options.rrd, control_hz=options.control_hz, force=options.force
        )
    if not count:
        asked = f" of {wanted}" if str(wanted) else ""
        raise NothingToExport(f"there is no request{asked} in {options.log}")
    console.print(f"{options.rrd}: {count} requests. To look at them: rerun {options.rrd}")


def _reading(
    logs: Sequence[Path], wanted: Wanted, progress: Callable[[int, int], None]
) -> Iterator[Exchange]:
    from scripts.recording.request_log import LogReader, warn_of_cut

    total, before = sum(path.stat().st_size for path in logs), 0
    for path in logs:
        reader = LogReader(path)
        for exchange in reader:
            progress(before + reader.offset, total)
            if wanted.has(exchange):
                yield exchange
        warn_of_cut(reader)
        before += path.stat().st_size


@contextmanager
def _progress(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("")

        def told(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield told
