"""Finding a checkpoint's files, and a fingerprint of all that decides about its answers.

A checkpoint is a folder in the public layout: the weights, `model.safetensors` or JAX's `params/`,
and beside them `assets/<asset id>/norm_stats.json`. It may lie in object storage: then it is looked
for in the cache, and `missing` tells what is not there yet. No torch here: files are looked at
before it is imported.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.checkpoints.download import Cache, is_remote
from worker.checkpoints.download.addresses import parse
from worker.checkpoints.safetensors_file import WeightsFile
from worker.errors import CheckpointError

EMBEDDED = Path(__file__).parents[1] / "assets" / "tiny"
"""Tokenizer and statistics of `model=tiny`, which ship with the package."""

WEIGHTS_FILE = "model.safetensors"
WEIGHTS_FOLDER = "params"
TOKENIZER_NAMES = ("tokenizer.model", "paligemma_tokenizer.model")
PUBLIC_TOKENIZER = "gs://big_vision/paligemma_tokenizer.model"
"""PaliGemma's, which all public checkpoints were trained with."""

SAMPLE_BYTES = 4096
SAMPLES = 1000

WAYS_ON = (
    "checkpoint=DIR names a folder with model.safetensors or params/, and assets/;"
    " or model=tiny runs without any download"
)


@dataclass(frozen=True)
class Checkpoint:
    """The files that make a policy."""

    weights: Path | None
    """None: the embedded model's, made up from a fixed seed."""
    norm_stats: Path
    tokenizer: Path


@dataclass(frozen=True)
class Sources:
    """What the settings name: folders, files, addresses, or None for the defaults."""

    checkpoint: str | None
    tokenizer: str | None
    embedded: bool
    """Is this the model that needs neither?"""

    def missing(self, cache: Cache) -> str | None:
        """The next address that has to be downloaded before `find` can succeed, if any.

        Raises `CheckpointError` where the checkpoint is there and has no weights: no tokenizer
        helps then.
        """
        if self.checkpoint is not None:
            if is_remote(self.checkpoint) and not cache.has(self.checkpoint):
                return self.checkpoint
            find_weights(local(self.checkpoint, cache))
        if self.tokenizer is not None:
            there = not is_remote(self.tokenizer) or cache.has(self.tokenizer)
            return None if there else self.tokenizer
        if self.checkpoint is None or self.embedded:
            return None
        beside = local(self.checkpoint, cache)
        if any((beside / name).is_file() for name in TOKENIZER_NAMES):
            return None
        return None if cache.has(PUBLIC_TOKENIZER) else PUBLIC_TOKENIZER

    def find(self, asset_id: str, cache: Cache) -> Checkpoint:
        """The files, once nothing is missing.

        Raises `CheckpointError` naming what is not there and the ways on.
        """
        if self.checkpoint is None:
            if not self.embedded:
                raise CheckpointError(f"this env and model have no public checkpoint; {WAYS_ON}")
            folder, weights = EMBEDDED, None
        else:
            folder = local(self.checkpoint, cache)
            weights = find_weights(folder)
        return Checkpoint(
            weights, _find_norm_stats(folder, asset_id), self._find_tokenizer(folder, cache)
        )

    def _find_tokenizer(self, folder: Path, cache: Cache) -> Path:
        if self.tokenizer is not None:
            path = _path(self.tokenizer, cache)
            if not path.is_file():
                raise CheckpointError(f"tokenizer={self.tokenizer} is no file that can be read")
            return path
        candidates = [folder / name for name in TOKENIZER_NAMES]
        if self.embedded:
            candidates.append(EMBEDDED / TOKENIZER_NAMES[0])
        candidates.append(_path(PUBLIC_TOKENIZER, cache))
        return next(path for path in candidates if path.is_file())


@contextmanager
def readable() -> Iterator[None]:
    """Raises `CheckpointError` where the system does not let us read (or write) what is there."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or 'a file'}: {error.strerror or error}; does this user"
            " have the permission, and is the disk whole?"
        ) from error


def local(checkpoint: str, cache: Cache) -> Path:
    """The folder on this machine. Raises `CheckpointError` where there is none."""
    folder = _path(checkpoint, cache)
    if not folder.exists():
        raise CheckpointError(f"checkpoint={checkpoint} does not exist; {WAYS_ON}")
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint={checkpoint} is a file; {WAYS_ON}")
    return folder


def find_weights(folder: Path) -> Path:
    """The safetensors file of a checkpoint, or else its `params/`.

    Raises `CheckpointError` where it has neither.
    """
    weights = folder / WEIGHTS_FILE
    if weights.is_file():
        return weights
    if (folder / WEIGHTS_FOLDER).is_dir():
        return folder / WEIGHTS_FOLDER
    if (folder / "manifest.ocdbt").is_file():
        raise CheckpointError(
            f"{folder} is a checkpoint's {WEIGHTS_FOLDER}/: name the folder above"
        )
    raise CheckpointError(
        f"{folder} has neither {WEIGHTS_FILE} nor {WEIGHTS_FOLDER}/: it holds"
        f" {', '.join(sorted(path.name for path in folder.iterdir())[:10]) or 'nothing'}; {WAYS_ON}"
    )


def asset_ids(folder: Path) -> list[str]:
    """For which robots a checkpoint brings statistics: values that `env.asset_id` can take."""
    assets = folder / "assets"
    return sorted(str(p.parent.relative_to(assets)) for p in assets.rglob("norm_stats.json"))


def digest(files: Checkpoint, decisive: Mapping[str, Any]) -> str:
    """A SHA-256 in hex over all that decides about the answers.

    The weights' header, sizes and about 1000 evenly spaced samples of 4 KB (reading all would take
    longer than loading), the statistics, the tokenizer, and `decisive`: settings, as plain data.
    Raises `CheckpointError` where a safetensors file is damaged.
    """
    total = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
    for path in (files.norm_stats, files.tokenizer):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    for sample in () if files.weights is None else _samples(files.weights):
        total.update(sample)
    return total.hexdigest()


def _samples(weights: Path) -> Iterator[bytes]:
    paths = [weights]
    if weights.is_dir():
        paths = sorted(path for path in weights.rglob("*") if path.is_file())
        yield json.dumps([str(path.relative_to(weights)) for path in paths]).encode()
    else:
        with WeightsFile(weights) as file:
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


def _path(location: str, cache: Cache) -> Path:
    if is_remote(location):
        return cache.path(parse(location))
    scheme, separator, _ = location.partition("://")
    if separator and scheme != "file":
        raise CheckpointError(f"{location}: {scheme}:// is none of s3://, gs:// and file://")
    return Path(location.removeprefix("file://")).expanduser()
