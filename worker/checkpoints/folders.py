"""Finding the weights in a folder, or saying what to do if they are not in it."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.checkpoints.download import Cache, is_remote
from worker.checkpoints.download.addresses import parse
from worker.checkpoints.layout import WEIGHTS_FILE, WEIGHTS_FOLDER, WEIGHTS_INDEX, has_weights
from worker.errors import CheckpointError

LEROBOT_FOLDERS = ("pretrained_model", "last/pretrained_model", "checkpoints/last/pretrained_model")
"""Where LeRobot's training puts a policy, below a step's folder, and below a run's."""
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin", "adapter_config.json")
STEP_LEVELS = 2
"""How many levels of folders are searched for a run's steps."""

WAYS_ON = (
    "checkpoint=DIR names a folder with model.safetensors or params/, and assets/;"
    " or model=tiny runs without any download"
)


@contextmanager
def system_errors() -> Iterator[None]:
    """Turn the system's refusal to read (or write) a file into one error that names it.

    Raises:
        CheckpointError: the system refused.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or 'a file'}: {error.strerror or error}; does this user"
            " have the permission, and is the disk whole?"
        ) from error


def local_path(location: str, cache: Cache) -> Path:
    """Where `location`, a path or an address, lies on this machine, or will.

    Raises:
        CheckpointError: it is an address of a kind that is not read.
    """
    if is_remote(location):
        return cache.path(parse(location))
    scheme, separator, rest = location.partition("://")
    if separator and scheme != "file":
        hub = _hub_advice(rest.partition("/")[2] if scheme.startswith("http") else rest)
        raise CheckpointError(
            f"{location}: {scheme}:// is none of s3://, gs:// and file://; {hub or WAYS_ON}"
        )
    return Path(location.removeprefix("file://")).expanduser()


def local_folder(checkpoint: str, cache: Cache) -> Path:
    """The checkpoint's folder on this machine; for a LeRobot run, that of its last policy.

    Raises:
        CheckpointError: there is none.
    """
    folder = local_path(checkpoint, cache)
    if not folder.exists():
        advice = _hub_advice(checkpoint)
        raise CheckpointError(f"checkpoint={checkpoint} does not exist; {advice or WAYS_ON}")
    if not folder.is_dir():
        raise CheckpointError(
            f"checkpoint={checkpoint} is a file: name the folder that it lies in; {WAYS_ON}"
        )
    return policy_folder(folder)


def policy_folder(folder: Path) -> Path:
    """`folder`, or where LeRobot's training put the policy below it."""
    if has_weights(folder):
        return folder
    below = (folder / name for name in LEROBOT_FOLDERS)
    return next((path for path in below if has_weights(path)), folder)


def find_weights(folder: Path) -> Path:
    """The safetensors file of a checkpoint, or the index of several, or else its `params/`.

    Raises:
        CheckpointError: it has none of them; the message says what it is instead.
    """
    for name in (WEIGHTS_FILE, WEIGHTS_INDEX):
        if (folder / name).is_file():
            return folder / name
    if (folder / WEIGHTS_FOLDER).is_dir():
        return folder / WEIGHTS_FOLDER
    if (folder / "manifest.ocdbt").is_file():
        raise CheckpointError(
            f"{folder} is a checkpoint's {WEIGHTS_FOLDER}/: name the folder above"
        )
    adapter = next((name for name in ADAPTERS if (folder / name).is_file()), None)
    if adapter is not None:
        raise CheckpointError(
            f"{folder} has an adapter only ({adapter}): merge it into the weights that it was"
            " trained on, and name the folder with the merged ones"
        )
    steps = list(_steps(folder, STEP_LEVELS))
    if steps:
        fits = max(steps, key=_step_number)
        raise CheckpointError(
            f"{folder} is the folder of a run with {len(steps)} checkpoints in it: name one of"
            f" them, such as the last, checkpoint={fits}"
        )
    raise CheckpointError(
        f"{folder} has neither {WEIGHTS_FILE} nor {WEIGHTS_FOLDER}/: it holds"
        f" {', '.join(sorted(path.name for path in folder.iterdir())[:10]) or 'nothing'}; {WAYS_ON}"
    )


def asset_ids(folder: Path) -> list[str]:
    """The robots that a checkpoint has statistics for: values that `env.asset_id` can take."""
    assets = folder / "assets"
    found = (path for path in files_below(assets) if path.name == "norm_stats.json")
    return sorted(str(path.parent.relative_to(assets)) for path in found)


def files_below(folder: Path) -> Iterator[Path]:
    """All files below `folder`; links are followed, each folder once."""
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(root) / name for name in sorted(names))


def _steps(folder: Path, levels: int) -> Iterator[Path]:
    """Folders with weights below `folder`."""
    for path in sorted(path for path in folder.iterdir() if path.is_dir()):
        if has_weights(policy_folder(path)):
            yield path
        elif levels > 1:
            yield from _steps(path, levels - 1)


def _step_number(path: Path) -> tuple[int, str]:
    numbers = re.findall(r"\d+", path.name)
    return (int(numbers[-1]) if numbers else -1), path.name


def _hub_advice(name: str) -> str | None:
    """What to do with `name` if it looks like a model's on a hub: owner and model."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name):
        return None
    return (
        f"if {name} is a model on a hub, download it first (hf download {name} --local-dir DIR)"
        " and name that folder, checkpoint=DIR"
    )
