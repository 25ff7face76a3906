"""What `config.json` beside the weights says about the model, and which of it is served."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from worker.checkpoints.lerobot import CONFIG, LeRobotPolicy, read_lerobot
from worker.config import ModelConfig, Normalization
from worker.errors import CheckpointError, SettingsError

# In openpi's file the names are our own.
_OPENPI = ("action_horizon", "action_dim", "max_token_len", "discrete_state_input")
_NORMALIZATIONS = {"MEAN_STD": Normalization.zscore, "QUANTILES": Normalization.quantile}


@dataclass(frozen=True)
class SavedConfig:
    """A `config.json` that was understood."""

    path: Path
    sizes: Mapping[str, int | bool]
    """By their keys below `model.`."""
    lerobot: LeRobotPolicy | None
    """What else is known if LeRobot saved it."""


def read_saved_config(folder: Path, weights: Path) -> SavedConfig | None:
    """The `config.json` in `folder`, beside `weights`; None where there is none.

    Raises:
        CheckpointError: it is damaged, or LeRobot's of a policy that is not understood.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is no JSON object")
    if "type" in config:
        policy = read_lerobot(folder, weights, config)
        return SavedConfig(path, policy.sizes, policy)
    sizes = {key: config[key] for key in _OPENPI if config.get(key) is not None}
    for key, value in sizes.items():
        if type(value) is not (bool if key == "discrete_state_input" else int):
            raise CheckpointError(f"{path}: {key} is {value!r}")
    return SavedConfig(path, sizes, None)


def served_model(
    model: ModelConfig, saved: SavedConfig | None, given: Collection[str]
) -> ModelConfig:
    """`model` with the sizes that `saved` gives.

    Args:
        given: the settings that the user gave, such as `model.action_horizon`.

    Raises:
        SettingsError: the user gave another one, or chose another architecture.
    """
    if saved is None:
        return model
    policy = saved.lerobot
    if policy is not None and policy.architecture is not model.architecture:
        raise SettingsError(
            f"model.architecture={model.architecture}, but {saved.path} is a"
            f" {policy.architecture}'s: model={policy.architecture}"
        )
    differing = {k: v for k, v in saved.sizes.items() if getattr(model, k) != v}
    contradicted = [key for key in differing if f"model.{key}" in given]
    if contradicted:
        said = ", ".join(f"model.{key}={getattr(model, key)}" for key in contradicted)
        right = ", ".join(f"{key}={differing[key]}" for key in contradicted)
        raise SettingsError(
            f"{said}: {saved.path} says {right}; leave the setting out, or correct the file"
        )
    if policy is not None and "model.normalization" in given:
        modes = {_NORMALIZATIONS.get(part.mode) for part in (policy.state, policy.actions)}
        if modes != {model.normalization}:
            raise SettingsError(
                f"model.normalization={model.normalization}: the checkpoint says STATE"
                f" {policy.state.mode} and ACTION {policy.actions.mode}; leave the setting out"
            )
    return replace(model, **differing)  # type: ignore[arg-type]
