"""Looks at a checkpoint, converts it to one safetensors file, or checks that it is sound.

python -m scripts.checkpoint inspect gs://openpi-assets/checkpoints/pi05_droid
python -m scripts.checkpoint convert FOLDER_OR_ADDRESS TARGET_FOLDER --dtype bfloat16
python -m scripts.checkpoint verify FOLDER_OR_ADDRESS

What is in object storage is downloaded first, to the same cache that workers use. Exit codes:
0 fine, 1 something is wrong with the checkpoint, 2 the command line.
"""

from conf.flags import Flags, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import argparse
import logging
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from worker.checkpoint_tools.conversion import convert, copy_rest
from worker.checkpoint_tools.inspection import UNTOLD, architecture, dimensions, fits, statistics
from worker.checkpoints.download import Cache, fetch, is_remote
from worker.checkpoints.download.addresses import parse
from worker.checkpoints.download.progress import Progress
from worker.checkpoints.dtypes import BY_NAME
from worker.checkpoints.folders import (
    asset_ids,
    find_weights,
    local_folder,
    local_path,
    system_errors,
)
from worker.checkpoints.layout import WEIGHTS_FILE, WEIGHTS_FOLDER
from worker.checkpoints.saved_config import SavedConfig, read_saved_config
from worker.checkpoints.weights import Weights, nbytes, open_weights
from worker.config import DownloadConfig
from worker.errors import CheckpointError, SettingsError, WorkerError

DTYPES = ("bfloat16", "float32")
_FLAGS = {
    "; or model=tiny runs without any download": "",
    ", and model=tiny needs none": "",
    ", and model=tiny needs no download": "",
    " (a tokenizer with tokenizer=FILE)": "",
    "download.cache_dir=": "--cache-dir",
    "download.s3_endpoint=": "--s3-endpoint",
    "download.gs_endpoint=": "--gs-endpoint",
    "download.connections": "--connections",
    "checkpoint=": "",
}
_OTHER_FORMS = {
    "checkpoint": "",
    "target": "",
    "dtype": "--dtype",
    "cache_dir": "--cache-dir",
    "s3_endpoint": "--s3-endpoint",
    "gs_endpoint": "--gs-endpoint",
    "connections": "--connections",
    "overwrite": "--overwrite",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if (advice := _other_form(words)) is not None:
        print(advice, file=sys.stderr)
        return 2
    given = _parser().read(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("botocore").setLevel(logging.WARNING)
    try:
        given.download = DownloadConfig(
            given.cache_dir, given.s3_endpoint, given.gs_endpoint, given.connections
        )
        with system_errors():
            folder = _bring(given.checkpoint, given.download)
            command: Callable[[argparse.Namespace, Path], int] = given.command
            return command(given, folder)
    except WorkerError as error:
        print(in_flags(str(error)), file=sys.stderr)
        return 2 if isinstance(error, SettingsError) else 1


def inspect(given: argparse.Namespace, folder: Path) -> int:
    """Print what the checkpoint is, and what serves it."""
    path = find_weights(folder)
    saved = read_saved_config(folder, path)
    sizes = {} if saved is None else saved.sizes
    with open_weights(path) as weights:
        table = Table("", "", show_header=False, box=None)
        for key, value in _description(weights, folder, saved):
            table.add_row(key, value)
        Console(soft_wrap=True).print(table)
        untold = [key for key in UNTOLD if key not in sizes]
        print(
            f"\n{', '.join(untold)} cannot be read from weights: they are the public"
            " configuration's here\n"
        )
        found = list(fits(weights, folder, saved))
    for fit in found:
        checkpoint = shlex.quote(f"checkpoint={_for_hydra(given.checkpoint)}")
        print(f"python -m worker {' '.join(fit.settings)} {checkpoint}")
        if fit.problem:
            print(f"  cannot be served: {fit.problem}")
    if not found:
        print(
            "no env in conf/env is for these statistics: choose one with env.asset_id=, or add"
            " your robot (docs/robots.md)"
        )
    return 0


def convert_command(given: argparse.Namespace, folder: Path) -> int:
    """Write `model.safetensors` and what belongs to it into the target folder.

    Raises:
        CheckpointError: there are weights in the target folder already, or the source has none.
    """
    target = local_path(str(given.target), Cache(given.download))
    if (target / WEIGHTS_FILE).exists() and not given.overwrite:
        raise CheckpointError(f"{target / WEIGHTS_FILE} is there already; --overwrite replaces it")
    source = folder / WEIGHTS_FOLDER
    source = source if source.is_dir() else find_weights(folder)
    with open_weights(source) as weights:
        architecture(weights)
        with Progress(f"converting {folder.name}", nbytes(weights)) as progress:
            path = convert(weights, target, BY_NAME[given.dtype].safetensors, progress.advance)
    copied = copy_rest(folder, target) if target.resolve() != folder.resolve() else []
    print(f"{path}: {path.stat().st_size / 1e9:.3f} GB; beside it {', '.join(copied) or 'nothing'}")
    return 0


def verify(given: argparse.Namespace, folder: Path) -> int:
    """Print every check; returns 1 if one does not hold."""
    from worker.checkpoint_tools.verification import checks, store_checks

    with Progress(f"reading {folder.name}", _bytes_to_read(folder)) as progress:
        found = list(checks(folder, progress.advance))
    if is_remote(given.checkpoint):
        found += store_checks(parse(given.checkpoint), folder, given.download)
    for check in found:
        print(f"{'ok ' if check.holds else 'BAD'}  {check.what}: {check.found}")
    held = [check.holds for check in found]
    if not all(held) and is_remote(given.checkpoint):
        print(f"remove {folder} to have it downloaded again")
    return 0 if all(held) else 1


def in_flags(message: str) -> str:
    """A worker's `message`, with this command's flags instead of the worker's settings."""
    for setting, flag in _FLAGS.items():
        message = message.replace(setting, flag)
    return message


def _other_form(words: Sequence[str]) -> str | None:
    """What to write where a word is a worker's setting, `key=value`."""
    for word in words:
        key, equals, value = word.partition("=")
        flag = _OTHER_FORMS.get(key.rpartition(".")[2])
        if equals and flag is not None and not Path(word).exists():
            right = f"{flag} {value}".strip()
            return f"{word}: this command takes flags, not key=value; write {right}"
    return None


def _for_hydra(location: str) -> str:
    """`location` as a setting of the worker: with quotes where they are needed."""
    if re.fullmatch(r"[\w./:@+-]+", location):
        return location
    escaped = location.replace("'", "\\'")
    return f"'{escaped}'"


def _description(
    weights: Weights, folder: Path, saved: SavedConfig | None
) -> list[tuple[str, str]]:
    kind = architecture(weights)
    kinds = sorted({tensor.dtype for tensor in weights.tensors.values()})
    sizes = dimensions(weights)
    rows = [
        ("weights", f"{weights.path}"),
        ("form", "Orbax (JAX)" if weights.path.is_dir() else "safetensors (PyTorch)"),
        (
            "tensors",
            f"{len(weights.tensors)}, {'/'.join(kinds)}, {nbytes(weights) / 1e9:.3f} GB",
        ),
        ("architecture", kind),
        *((key, str(value)) for key, value in sizes.items()),
    ]
    if saved is not None:
        told = ", ".join(f"{key} {value}" for key, value in saved.sizes.items())
        rows.append((saved.path.name, told or "tells none of the model's sizes"))
    if saved is not None and saved.lerobot is not None:
        policy = saved.lerobot
        rows += [
            ("saved by", f"LeRobot, as {policy.architecture}"),
            ("cameras", ", ".join(policy.cameras)),
            ("state", f"{policy.state_dim}, {policy.state.mode}"),
            ("action", f"{policy.action_dim}, {policy.actions.mode}"),
        ]
    for asset in asset_ids(folder):
        for part, lengths in statistics(folder, asset).items():
            told = ", ".join(f"{kind} {length}" for kind, length in lengths.items())
            rows.append((f"assets/{asset}", f"{part}: {told}"))
    return rows


def _bring(checkpoint: str, config: DownloadConfig) -> Path:
    if is_remote(checkpoint):
        fetch(checkpoint, config)
    return local_folder(checkpoint, Cache(config))


def _bytes_to_read(folder: Path) -> int:
    """What `verify` reads: each form once, and JAX's again if there are two."""
    with open_weights(find_weights(folder)) as weights:
        both = weights.path.is_file() and (folder / WEIGHTS_FOLDER).is_dir()
        return nbytes(weights) * (2 if both else 1)


def _parser() -> Flags:
    parser = Flags("python -m scripts.checkpoint", __doc__)
    shared = Flags("shared", add_help=False)
    shared.add_argument("checkpoint", help="folder, s3://bucket/prefix or gs://bucket/prefix")
    defaults = DownloadConfig()
    shared.add_argument("--cache-dir", help="for downloads; else OPENPI_DATA_HOME")
    shared.add_argument("--s3-endpoint", help="else AWS_ENDPOINT_URL, else Amazon's")
    shared.add_argument("--gs-endpoint", default=defaults.gs_endpoint)
    shared.add_argument("--connections", type=int, default=defaults.connections)
    commands = parser.add_subparsers(required=True, metavar="{inspect,convert,verify}")
    about = commands.add_parser("inspect", parents=[shared], help="dimensions, statistics, env")
    about.set_defaults(command=inspect)
    making = commands.add_parser("convert", parents=[shared], help="write model.safetensors")
    making.add_argument("target", help="folder, made where it is missing")
    making.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    making.add_argument("--overwrite", action="store_true", help="replace an earlier one")
    making.set_defaults(command=convert_command)
    checking = commands.add_parser("verify", parents=[shared], help="complete, sound, loadable")
    checking.set_defaults(command=verify)
    return parser


if __name__ == "__main__":
    run_command(main)
