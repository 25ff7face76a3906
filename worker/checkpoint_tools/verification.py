"""Whether a checkpoint is complete and sound, and some model can load it."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from conf.compose import ConfigError, compose
from worker.checkpoint_tools.inspection import (
    architecture,
    dimensions,
    environments_of,
    statistics,
    statistics_problem,
)
from worker.checkpoints.download.addresses import Address
from worker.checkpoints.download.store import Interrupted, Store
from worker.checkpoints.download.transfer import needed
from worker.checkpoints.files import TOKENIZER_NAMES
from worker.checkpoints.folders import asset_ids, find_weights
from worker.checkpoints.layout import WEIGHTS_FILE, WEIGHTS_FOLDER
from worker.checkpoints.lerobot import CONFIG, LeRobotPolicy
from worker.checkpoints.names import match
from worker.checkpoints.saved_config import SavedConfig, read_saved_config, served_model
from worker.checkpoints.weights import SafetensorsWeights, Weights, nbytes, open_weights
from worker.config import Architecture, DownloadConfig, WorkerConfig
from worker.errors import CheckpointError, SettingsError
from worker.models.fast import Pi0Fast
from worker.models.pi0 import Pi0
from worker.robots.norm_stats import lerobot_scale, read_norm_stats
from worker.robots.tokenizers import PromptTokenizer


@dataclass(frozen=True)
class Check:
    """One thing that was checked, and what was found."""

    what: str
    holds: bool
    found: str


def checks(folder: Path, advance: Callable[[int], None]) -> Iterator[Check]:
    """All checks of a local checkpoint; `advance` is told how many bytes were read.

    A check does not hold where a worker would refuse the checkpoint. Beyond that, only weights that
    are not finite, and two forms that differ, do not hold.

    Raises:
        CheckpointError: there are no weights, or they are damaged.
    """
    path = find_weights(folder)
    with open_weights(path) as weights:
        used: set[str] = set()
        yield _check("model", lambda: _fits_a_model(weights, folder, used))
        yield _check("values", lambda: _all_finite(weights, used, advance))
        saved = None
        if (folder / CONFIG).is_file():
            saved = _saved(folder, path)
            yield _check("config.json", lambda: _describes(folder, path))
        if saved is not None and saved.lerobot is not None:
            policy = saved.lerobot
            yield _check("statistics", lambda: _lerobot_statistics(policy))
        else:
            yield from _asset_checks(weights, folder)
        for name in TOKENIZER_NAMES:
            if (folder / name).is_file():
                yield _check(name, lambda name=name: _words(folder / name, weights))  # type: ignore[misc]
    if path.name == WEIGHTS_FILE and (folder / WEIGHTS_FOLDER).is_dir():
        yield _check("both forms", lambda: _same(folder, advance))


def store_checks(address: Address, folder: Path, config: DownloadConfig) -> Iterator[Check]:
    """Compare what was downloaded to `folder` with what the store holds now.

    Raises:
        CheckpointError: the store cannot be asked.
    """
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
            same = "the same" if holds else "not the"
            yield Check(file.path, holds, f"{same} {checksum.algorithm} that the store tells")


def _check(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what, True, look())
    except (CheckpointError, ConfigError, SettingsError) as error:
        return Check(what, False, str(error))


def _saved(folder: Path, weights: Path) -> SavedConfig | None:
    """The `config.json`, if it is one that a worker takes."""
    with suppress(CheckpointError):
        return read_saved_config(folder, weights)
    return None


def _describes(folder: Path, weights: Path) -> str:
    saved = read_saved_config(folder, weights)
    sizes = {} if saved is None else saved.sizes
    told = ", ".join(f"{key} {value}" for key, value in sizes.items())
    return told or "tells none of the model's sizes"


def _fits_a_model(weights: Weights, folder: Path, used: set[str]) -> str:
    """Compare with the model that a worker would make; `used` gets the tensors that it needs."""
    kind = architecture(weights)
    # Any head count has the same tensors.
    sizes = {"vision.num_heads": 1, **dimensions(weights)}
    settings = [f"model.{key}={value}" for key, value in sizes.items()]
    model = compose("worker", WorkerConfig, ["env=droid", f"model={kind}", *settings]).model
    model = served_model(model, _saved(folder, weights.path), ())
    with torch.device("meta"):
        module = Pi0Fast(model) if kind is Architecture.pi0_fast else Pi0(model)
    shapes = {name: tuple(p.shape) for name, p in module.named_parameters()}
    count = sum(p.numel() for p in module.parameters())
    used |= set(match(weights, shapes).values())
    return f"{kind}, {count:,} parameters, every tensor is there"


def _all_finite(weights: Weights, used: set[str], advance: Callable[[int], None]) -> str:
    for piece in weights.pieces():
        # The sum is not finite where one value is not (or where it overflows, which is as bad).
        if not np.isfinite(piece.values.sum(dtype=np.float64)) and piece.name in used:
            raise CheckpointError(f"{piece.name} has values that are not finite")
        advance(piece.values.nbytes)
    return f"{len(weights.tensors)} tensors read, {nbytes(weights) / 1e9:.3f} GB, all finite"


def _asset_checks(weights: Weights, folder: Path) -> Iterator[Check]:
    found = asset_ids(folder)
    if not found:
        yield Check("statistics", False, "none: no folder below assets/ has norm_stats.json")
    for asset in found:
        yield _check(f"statistics {asset}", lambda asset=asset: _described(weights, folder, asset))  # type: ignore[misc]


def _described(weights: Weights, folder: Path, asset: str) -> str:
    """Read the statistics as the workers that need them would."""
    model = architecture(weights)
    configs = environments_of(asset, model)
    problems = [statistics_problem(folder, config) for config in configs]
    if problems and None not in problems:
        raise CheckpointError(str(problems[0]))
    if not problems:
        # Some robot of the user's own: nothing is known about it but that it has numbers.
        normalization = compose("worker", WorkerConfig, [f"model={model}"]).model.normalization
        read_norm_stats(folder / "assets" / asset / "norm_stats.json", normalization, 1, 1)
    return ", ".join(
        f"{name}: {'/'.join(kinds)} of {max(kinds.values(), default=0)}"
        for name, kinds in statistics(folder, asset).items()
    )


def _lerobot_statistics(policy: LeRobotPolicy) -> str:
    lerobot_scale("observation.state", policy.state, policy.state_dim)
    lerobot_scale("action", policy.actions, policy.action_dim)
    return (
        f"state: {policy.state.mode} of {policy.state_dim}, action: {policy.actions.mode} of"
        f" {policy.action_dim}"
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
