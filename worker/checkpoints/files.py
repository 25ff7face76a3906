"""Finding a checkpoint's files, and a fingerprint of everything that its answers depend on.

A checkpoint is a folder in the public layout: the weights, `model.safetensors` or JAX's `params/`,
and beside them `assets/<asset id>/norm_stats.json`. It may lie in object storage: then it is looked
for in the cache, and `missing` tells what is not there yet. No torch here: files are looked at
before it is imported.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.checkpoints import shipped
from worker.checkpoints.download import Cache, is_remote
from worker.checkpoints.folders import (
    WAYS_ON,
    asset_ids,
    files_below,
    find_weights,
    local_folder,
    local_path,
)
from worker.checkpoints.layout import WEIGHTS_FILE
from worker.checkpoints.lerobot import LeRobotPolicy
from worker.checkpoints.safetensors_file import WeightsFile
from worker.checkpoints.saved_config import SavedConfig, read_saved_config
from worker.checkpoints.weights import INDEX_SUFFIX, shards
from worker.errors import CheckpointError

EMBEDDED = Path(__file__).parents[1] / "assets" / "tiny"
"""Tokenizer and statistics of `model=tiny`, which ship with the package."""

TOKENIZER_NAMES = ("tokenizer.model", "paligemma_tokenizer.model")
PUBLIC_TOKENIZER = "gs://big_vision/paligemma_tokenizer.model"
"""PaliGemma's, which all public checkpoints were trained with."""

SAMPLE_BYTES = 4096
SAMPLES = 1000


@dataclass(frozen=True)
class Checkpoint:
    """The files that make a policy."""

    weights: Path | None
    """None: the embedded model's, made up from a fixed seed."""
    norm_stats: Path | None
    """None: LeRobot's, which are in `saved`."""
    tokenizer: Path
    saved: SavedConfig | None = None
    """What `config.json` says."""

    @property
    def lerobot(self) -> LeRobotPolicy | None:
        """What LeRobot saved, if it did."""
        return None if self.saved is None else self.saved.lerobot


@dataclass(frozen=True)
class Sources:
    """What the settings name: folders, files, addresses, or None for the defaults."""

    checkpoint: str | None
    tokenizer: str | None
    embedded: bool
    """Whether this is the model that needs neither."""
    trained: Path | None = None
    """Folder of the trained weights that ship for this model and robot, if there are any."""

    @property
    def untrained(self) -> bool:
        """Whether the weights are made up."""
        return self.checkpoint is None and self.embedded and self.trained is None

    def missing(self, cache: Cache) -> str | None:
        """The next address that has to be downloaded before `find` can succeed, if any.

        Raises:
            CheckpointError: the checkpoint is there and has no weights: no tokenizer helps then.
        """
        if self.checkpoint is not None:
            if is_remote(self.checkpoint) and not cache.has(self.checkpoint):
                return self.checkpoint
            find_weights(local_folder(self.checkpoint, cache))
        if self.tokenizer is not None:
            there = not is_remote(self.tokenizer) or cache.has(self.tokenizer)
            return None if there else self.tokenizer
        if self.checkpoint is None or self.embedded:
            return None
        beside = local_folder(self.checkpoint, cache)
        if any((beside / name).is_file() for name in TOKENIZER_NAMES):
            return None
        return None if cache.has(PUBLIC_TOKENIZER) else PUBLIC_TOKENIZER

    def find(self, asset_id: str, cache: Cache) -> Checkpoint:
        """The files, once nothing is missing.

        Raises:
            CheckpointError: something is not there, or is damaged; the message says what to do.
        """
        if self.checkpoint is None:
            if not self.embedded:
                raise CheckpointError(f"this env and model have no public checkpoint; {WAYS_ON}")
            folder, weights = EMBEDDED, None
            if self.trained is not None:
                shipped.check(self.trained)
                folder, weights = self.trained, self.trained / WEIGHTS_FILE
        else:
            folder = local_folder(self.checkpoint, cache)
            weights = find_weights(folder)
        saved = None if weights is None else read_saved_config(folder, weights)
        is_lerobot = saved is not None and saved.lerobot is not None
        norm_stats = None if is_lerobot else _find_norm_stats(folder, asset_id)
        return Checkpoint(weights, norm_stats, self._find_tokenizer(folder, cache), saved)

    def _find_tokenizer(self, folder: Path, cache: Cache) -> Path:
        if self.tokenizer is not None:
            path = local_path(self.tokenizer, cache)
            if not path.is_file():
                raise CheckpointError(f"tokenizer={self.tokenizer} is no file that can be read")
            return path
        candidates = [folder / name for name in TOKENIZER_NAMES]
        if self.embedded:
            candidates.append(EMBEDDED / TOKENIZER_NAMES[0])
        candidates.append(local_path(PUBLIC_TOKENIZER, cache))
        return next(path for path in candidates if path.is_file())


def digest(files: Checkpoint, settings: Mapping[str, Any]) -> str:
    """A SHA-256 in hex over everything that the answers depend on.

    The weights' header, sizes and about 1000 evenly spaced samples of 4 KB (reading all would take
    longer than loading), the statistics, the tokenizer, and `settings`, as plain data.

    Raises:
        CheckpointError: a safetensors file is damaged.
    """
    total = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    beside = files.lerobot.files if files.lerobot is not None else (files.norm_stats,)
    for path in (path for path in (*beside, files.tokenizer) if path is not None):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    for sample in () if files.weights is None else _samples(files.weights):
        total.update(sample)
    return total.hexdigest()


def _samples(weights: Path) -> Iterator[bytes]:
    if weights.is_dir():
        paths = sorted(files_below(weights))
        yield json.dumps([str(path.relative_to(weights)) for path in paths]).encode()
    else:
        paths = shards(weights) if weights.name.endswith(INDEX_SUFFIX) else [weights]
        for path in paths:
            with WeightsFile(path) as file:
                yield file.header
    sizes = [path.stat().st_size for path in paths]
    yield json.dumps(sizes).encode()
    stride = max(SAMPLE_BYTES, sum(sizes) // SAMPLES)
    for path, size in zip(paths, sizes, strict=True):
        with path.open("rb", buffering=0) as binary:
            for start in range(0, size, stride):
                binary.seek(start)
                yield binary.read(SAMPLE_BYTES)


def _find_norm_stats(folder: Path, asset_id: str) -> Path:
    path = folder / "assets" / asset_id / "norm_stats.json"
    if path.is_file():
        return path
    raise CheckpointError(
        f"{path} is missing: without the training's statistics actions have no scale."
        f" This checkpoint has statistics for {', '.join(asset_ids(folder)) or 'nothing'};"
        " env.asset_id= chooses"
    )
