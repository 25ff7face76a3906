"""Finding a checkpoint's files, and a fingerprint of all that decides about its answers.

A checkpoint is a folder in the public layout: `model.safetensors`, and beside it
`assets/<asset id>/norm_stats.json`. No torch here: files are looked at before it is imported.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.errors import CheckpointError
from worker.weights_file import WeightsFile

EMBEDDED = Path(__file__).parent / "assets" / "tiny"
"""Tokenizer and statistics of `model=tiny`, which ship with the package."""

TOKENIZER_NAMES = ("tokenizer.model", "paligemma_tokenizer.model")
SAMPLE_BYTES = 4096
SAMPLES = 1000

WAYS_ON = (
    "checkpoint=DIR names a folder with model.safetensors and assets/,"
    " or model=tiny runs without any download"
)


@dataclass(frozen=True)
class Checkpoint:
    """The files that make a policy."""

    weights: Path | None
    """None: the embedded model's, made up from a fixed seed."""
    norm_stats: Path
    tokenizer: Path


def find(
    checkpoint: str | None, tokenizer: str | None, asset_id: str, embedded: bool
) -> Checkpoint:
    """The files of `checkpoint`, or of the embedded model where it names none.

    Raises `CheckpointError` naming what is missing and the ways on.
    """
    if checkpoint is None:
        if not embedded:
            raise CheckpointError(f"this env and model have no public checkpoint; {WAYS_ON}")
        folder, weights = EMBEDDED, None
    else:
        folder = find_folder(checkpoint)
        weights = _find_weights(folder)
    return Checkpoint(
        weights,
        _find_norm_stats(folder, asset_id),
        _find_tokenizer(folder, tokenizer, embedded),
    )


def find_folder(checkpoint: str) -> Path:
    """The local folder of `checkpoint`. Raises `CheckpointError` where there is none."""
    scheme, separator, _ = checkpoint.partition("://")
    if separator and scheme != "file":
        raise CheckpointError(
            f"checkpoint={checkpoint} cannot be reached: the worker reads local folders, so copy"
            f" it here first; {WAYS_ON}"
        )
    folder = Path(checkpoint.removeprefix("file://")).expanduser()
    if not folder.exists():
        raise CheckpointError(f"checkpoint={checkpoint} does not exist; {WAYS_ON}")
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint={checkpoint} is a file; {WAYS_ON}")
    return folder


def digest(files: Checkpoint, decisive: Mapping[str, Any]) -> str:
    """A SHA-256 in hex over all that decides about the answers.

    The weights' header and 1000 evenly spaced samples of 4 KB (reading all would take longer
    than loading), the statistics, the tokenizer, and `decisive`: settings, as plain data.
    """
    total = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
    for path in (files.norm_stats, files.tokenizer):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    if files.weights is not None:
        with WeightsFile(files.weights) as file:
            total.update(file.header)
            first = 8 + len(file.header)
            stride = max(SAMPLE_BYTES, (file.size - first) // SAMPLES)
            for start in range(first, file.size, stride):
                total.update(file.read(start, SAMPLE_BYTES))
    return total.hexdigest()


def _find_weights(folder: Path) -> Path:
    weights = folder / "model.safetensors"
    if weights.is_file():
        return weights
    if (folder / "params").is_dir():
        raise CheckpointError(
            f"{folder} holds a checkpoint in JAX's form (params/), not model.safetensors:"
            f" convert it first; {WAYS_ON}"
        )
    raise CheckpointError(f"{folder} has no model.safetensors; {WAYS_ON}")


def _find_norm_stats(folder: Path, asset_id: str) -> Path:
    path = folder / "assets" / asset_id / "norm_stats.json"
    if path.is_file():
        return path
    assets = folder / "assets"
    present = sorted(str(p.parent.relative_to(assets)) for p in assets.rglob("norm_stats.json"))
    raise CheckpointError(
        f"{path} is missing: without the training's statistics actions have no scale."
        f" This checkpoint has statistics for {', '.join(present) or 'nothing'};"
        " env.asset_id= chooses"
    )


def _find_tokenizer(folder: Path, tokenizer: str | None, embedded: bool) -> Path:
    if tokenizer is not None:
        path = Path(tokenizer).expanduser()
        if not path.is_file():
            raise CheckpointError(f"tokenizer={tokenizer} is no file that can be read")
        return path
    candidates = [folder / name for name in TOKENIZER_NAMES]
    if embedded:
        candidates.append(EMBEDDED / TOKENIZER_NAMES[0])
    for path in candidates:
        if path.is_file():
            return path
    raise CheckpointError(
        f"{folder} has no {' or '.join(TOKENIZER_NAMES)}: tokenizer=FILE names PaliGemma's"
        " (gs://big_vision/paligemma_tokenizer.model, copied to this machine)"
    )
