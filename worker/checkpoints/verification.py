"""Whether a checkpoint is complete, sound and what some model can load."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from conf.compose import ConfigError, compose
from worker.checkpoints.download.addresses import Address
from worker.checkpoints.download.store import Interrupted, Store
from worker.checkpoints.download.transfer import needed
from worker.checkpoints.files import TOKENIZER_NAMES
from worker.checkpoints.folders import WEIGHTS_FILE, WEIGHTS_FOLDER, asset_ids, find_weights
from worker.checkpoints.inspection import architecture, dimensions, statistics
from worker.checkpoints.names import match
from worker.checkpoints.weights import SafetensorsWeights, Weights, nbytes, open_weights
from worker.config import Architecture, DownloadConfig, WorkerConfig
from worker.errors import CheckpointError
from worker.models.fast import Pi0Fast
from worker.models.pi0 import Pi0
from worker.robots.tokenizers import PromptTokenizer


@dataclass(frozen=True)
class Check:
    """One question, and what was found."""

    what: str
    holds: bool
    found: str


def checks(folder: Path, advance: Callable[[int], None]) -> Iterator[Check]:
    """All that can be said of a local checkpoint; `advance` is told how many bytes were read."""
    with open_weights(find_weights(folder)) as weights:
        yield _asked("model", lambda: _fits_a_model(weights))
        yield _asked("values", lambda: _all_finite(weights, advance))
        yield from (
            _asked(f"statistics {asset}", lambda asset=asset: _described(folder, asset))  # type: ignore[misc]
            for asset in asset_ids(folder)
        )
        if not asset_ids(folder):
            yield Check("statistics", False, "none: no folder below assets/ has norm_stats.json")
        for name in TOKENIZER_NAMES:
            if (folder / name).is_file():
                yield _asked(name, lambda name=name: _words(folder / name, weights))  # type: ignore[misc]
    if (folder / WEIGHTS_FILE).is_file() and (folder / WEIGHTS_FOLDER).is_dir():
        yield _asked("both forms", lambda: _same(folder, advance))


def store_checks(address: Address, folder: Path, config: DownloadConfig) -> Iterator[Check]:
    """Is what was downloaded to `folder` what the store holds now?"""
    store = Store(address, config)
    for file in needed(store.files()):
        path = folder / file.path if file.path else folder
        if not path.is_file() or path.stat().st_size != file.size:
            yield Check(file.path, False, f"the store has {file.size} bytes of it")
            continue
        try:
            checksum = store.checksum(file)
        except Interrupted as error:
            raise CheckpointError(f"{address} cannot be compared: {error}") from error
        if checksum is None:
            yield Check(file.path, True, "same size; the store tells no checksum")
        else:
            holds = checksum.holds(path)
            verdict = "the same" if holds else "not the"
            yield Check(file.path, holds, f"{verdict} {checksum.algorithm} that the store tells")


def _asked(what: str, question: Callable[[], str]) -> Check:
    try:
        return Check(what, True, question())
    except (CheckpointError, ConfigError) as error:
        return Check(what, False, str(error))


def _fits_a_model(weights: Weights) -> str:
    kind = architecture(weights)
    # Any head count has the same tensors.
    sizes = {"vision.num_heads": 1, **dimensions(weights)}
    settings = [f"model.{key}={value}" for key, value in sizes.items()]
    model = compose("worker", WorkerConfig, ["env=droid", f"model={kind}", *settings]).model
    with torch.device("meta"):
        module = Pi0Fast(model) if kind is Architecture.pi0_fast else Pi0(model)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    count = sum(p.numel() for p in module.parameters())
    match(weights, shapes)
    return f"{kind}, {count:,} parameters, every tensor is there"


def _all_finite(weights: Weights, advance: Callable[[int], None]) -> str:
    for piece in weights.pieces():
        # The sum is not finite where one value is not (or where it overflows, which is as bad).
        if not np.isfinite(piece.values.sum(dtype=np.float64)):
            raise CheckpointError(f"{piece.name} has values that are not finite")
        advance(piece.values.nbytes)
    return f"{len(weights.tensors)} tensors read, {nbytes(weights) / 1e9:.3f} GB, all finite"


def _described(folder: Path, asset: str) -> str:
    parts = statistics(folder, asset)
    for name in ("state", "actions"):
        if name not in parts:
            raise CheckpointError(f"no {name}")
    return ", ".join(
        f"{name}: {'/'.join(kinds)} of {max(kinds.values(), default=0)}"
        for name, kinds in parts.items()
    )


def _words(path: Path, weights: Weights) -> str:
    count, known = PromptTokenizer(path, 1).vocab_size, dimensions(weights).get("vocab_size")
    if known not in (None, count):
        raise CheckpointError(f"{count} tokens, and the model knows {known}")
    return f"{count} tokens"


def _same(folder: Path, advance: Callable[[int], None]) -> str:
    """JAX's form against the PyTorch form, after rounding to the narrower of their dtypes."""
    with (
        open_weights(folder / WEIGHTS_FOLDER) as jax,
        open_weights(folder / WEIGHTS_FILE) as file,
    ):
        if not isinstance(file, SafetensorsWeights):
            raise CheckpointError(f"{file.path} is a folder")
        for piece in jax.pieces():
            tensor = file.tensors.get(piece.name)
            if tensor is None or tensor.shape != jax.tensors[piece.name].shape:
                raise CheckpointError(f"{WEIGHTS_FILE} has no such {piece.name} as params/")
            theirs = file.rows(piece.name, piece.start, len(piece.values))
            narrow = min(theirs.dtype, piece.values.dtype, key=lambda dtype: dtype.itemsize)
            if not np.array_equal(theirs.astype(narrow), piece.values.astype(narrow)):
                raise CheckpointError(f"{piece.name} differs between params/ and {WEIGHTS_FILE}")
            advance(piece.values.nbytes)
    return "the same values"
