"""What LeRobot saves beside a policy's weights: sizes, cameras, prompt, steps and statistics.

A folder `pretrained_model/` has `config.json`, and `policy_preprocessor.json` and
`policy_postprocessor.json` with the steps around the model; the normaliser's numbers lie in a
safetensors file of their own. Older pi0 policies have no such steps: the numbers lie among the
weights. A step that is not known here is refused by its name, since leaving it out would give
actions that look right and are not.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from worker.checkpoints.safetensors_file import WeightsFile
from worker.checkpoints.steps import Step, check_steps, rename_map, steps_of
from worker.checkpoints.weights import SafetensorsWeights, open_weights
from worker.config import Architecture
from worker.errors import CheckpointError

Array = npt.NDArray[np.float64]

CONFIG = "config.json"
PREPROCESSOR, POSTPROCESSOR = "policy_preprocessor", "policy_postprocessor"
STATE, ACTION, IMAGES = "observation.state", "action", "observation.images."
EMPTY_CAMERA = "empty_camera"
EPSILON = 1e-8
"""LeRobot's own, where a file does not say it."""

_TYPES = {kind.value: kind for kind in Architecture}
# Which two statistics a way of normalising uses.
STATISTICS = {
    "MEAN_STD": ("mean", "std"),
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
    "IDENTITY": (),
}


@dataclass(frozen=True)
class Normalizer:
    """How LeRobot scales one vector: `mode` of `STATISTICS`, and the numbers, float64 (dims,)."""

    mode: str
    numbers: tuple[Array, ...]
    epsilon: float


@dataclass(frozen=True)
class LeRobotPolicy:
    """One policy as LeRobot saved it."""

    architecture: Architecture
    sizes: Mapping[str, int | bool]
    """The model's, by their keys below `model.`."""
    state_dim: int
    """Numbers in the robot's state."""
    action_dim: int
    """Numbers in one of the robot's actions."""
    padded_state_dim: int
    """Numbers in the state that a prompt holds."""
    cameras: tuple[str, ...]
    """In the order of their tokens, without `observation.images.`."""
    renamed: Mapping[str, str]
    """The name under which the data set has a camera, by the model's, where they differ."""
    state: Normalizer
    actions: Normalizer
    adapts_to_pi: bool
    """Whether it was trained in the convention that `env.adapt_to_pi` translates to."""
    has_delta_actions: bool
    """Whether actions are relative to the state, which `env.delta_mask` undoes."""
    files: tuple[Path, ...]
    """The small files that its answers depend on."""


def read_lerobot(folder: Path, weights: Path, config: Mapping[str, Any]) -> LeRobotPolicy:
    """What lies in `folder`, whose `config.json` holds `config`; older statistics are in `weights`.

    Raises:
        CheckpointError: something is missing, damaged or not known.
    """
    path = folder / CONFIG
    kind = config.get("type")
    if kind not in _TYPES:
        raise CheckpointError(
            f"{path} is of a LeRobot policy of type {kind}; served are {', '.join(_TYPES)}"
        )
    try:
        return _read(folder, weights, config, _TYPES[kind])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{path} is no LeRobot policy's that can be read: {error!r}"
        ) from error


def _read(
    folder: Path, weights: Path, config: Mapping[str, Any], kind: Architecture
) -> LeRobotPolicy:
    path = folder / CONFIG
    inputs: dict[str, Any] = config["input_features"]
    cameras = _cameras(path, inputs)
    before, after = _pipeline(folder, PREPROCESSOR), _pipeline(folder, POSTPROCESSOR)
    renames: dict[str, str] = {}
    if before is None or after is None:
        if kind is not Architecture.pi0:
            raise CheckpointError(
                f"{folder} has no {PREPROCESSOR}.json or no {POSTPROCESSOR}.json, so the"
                " normalisation is not known; copy the whole folder that LeRobot saved"
            )
        state, actions = _older_normalizers(path, weights, config)
        files: list[Path] = [path]
    else:
        check_steps(before, after, kind)
        renames = rename_map(before, cameras, IMAGES)
        state, state_file = _normalizer(folder, before, "normalizer_processor", STATE, "STATE")
        actions, action_file = _normalizer(
            folder, after, "unnormalizer_processor", ACTION, "ACTION"
        )
        files = [path, before[0].path, after[0].path, state_file, action_file]
    if config.get("use_relative_actions"):
        raise CheckpointError(f"{path}: use_relative_actions is on, which is not served")
    padded = int(config["max_state_dim"])
    sizes: dict[str, int | bool] = {
        "action_horizon": int(config["chunk_size"]),
        "max_token_len": int(config["tokenizer_max_length"]),
        "discrete_state_input": kind is not Architecture.pi0,
    }
    action_dim = int(config["output_features"][ACTION]["shape"][0])
    if kind is Architecture.pi0_fast:
        sizes["action_dim"] = action_dim
    else:
        sizes["action_dim"] = int(config["max_action_dim"])
    return LeRobotPolicy(
        architecture=kind,
        sizes=sizes,
        state_dim=int(inputs[STATE]["shape"][0]),
        action_dim=action_dim,
        padded_state_dim=padded,
        cameras=cameras,
        renamed=renames,
        state=state,
        actions=actions,
        adapts_to_pi=bool(config.get("adapt_to_pi_aloha", False)),
        has_delta_actions=bool(config.get("use_delta_joint_actions_aloha", False)),
        files=tuple(files),
    )


def _cameras(path: Path, inputs: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the cameras; those that LeRobot adds as empty are masked, and left out."""
    others = [k for k in inputs if k != STATE and not k.startswith(IMAGES)]
    if others or STATE not in inputs:
        raise CheckpointError(
            f"{path} has the input_features {', '.join(inputs)}; served are {STATE} and"
            f" {IMAGES}NAME"
        )
    names = [key.removeprefix(IMAGES) for key in inputs if key.startswith(IMAGES)]
    return tuple(name for name in names if not name.startswith(EMPTY_CAMERA))


def _pipeline(folder: Path, name: str) -> list[Step] | None:
    """The steps of one side of the model; None where they were not saved."""
    path = folder / f"{name}.json"
    if not path.is_file():
        path = next(iter(sorted(folder.glob(f"{name}*.json"))), path)
    if not path.is_file():
        return None
    try:
        steps = steps_of(path, json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read: {error!r}") from error
    if not steps:
        raise CheckpointError(f"{path} has no steps, so the normalisation is not known")
    return steps


def _normalizer(
    folder: Path, steps: list[Step], name: str, feature: str, kind: str
) -> tuple[Normalizer, Path]:
    """The numbers by which the step `name` scales `feature`, and the file that they are from."""
    (step,) = (step for step in steps if step.name == name)
    if step.state_file is None:
        raise CheckpointError(
            f"{step.path}: {name} has no statistics, as in a base model that was not fine-tuned yet"
        )
    path = folder / step.state_file
    mode = str(step.config["norm_map"].get(kind, "IDENTITY"))
    epsilon = float(step.config.get("eps", EPSILON))
    with WeightsFile(path) as file:
        return _numbers(SafetensorsWeights(path, [file]), f"{feature}.", mode, epsilon), path


def _older_normalizers(
    path: Path, weights: Path, config: Mapping[str, Any]
) -> tuple[Normalizer, Normalizer]:
    modes: dict[str, str] = config["normalization_mapping"]
    with open_weights(weights) as held:
        if not isinstance(held, SafetensorsWeights) or not any(_statistics_names(held)):
            raise CheckpointError(
                f"{path} is LeRobot's, but no statistics are beside it or in the weights: copy"
                f" the whole folder, with {PREPROCESSOR}.json and the files that it names"
            )
        return (
            _numbers(held, "normalize_inputs.buffer_observation_state.", modes["STATE"], EPSILON),
            _numbers(held, "unnormalize_outputs.buffer_action.", modes["ACTION"], EPSILON),
        )


def _statistics_names(weights: SafetensorsWeights) -> Iterator[str]:
    return (name for name in weights.tensors if name.startswith("normalize_inputs."))


def _numbers(weights: SafetensorsWeights, prefix: str, mode: str, epsilon: float) -> Normalizer:
    if mode not in STATISTICS:
        raise CheckpointError(
            f"{weights.path} is for the normalisation {mode}; known are {', '.join(STATISTICS)}"
        )
    names = [f"{prefix}{kind}" for kind in STATISTICS[mode]]
    missing = [name for name in names if name not in weights.tensors]
    if missing:
        raise CheckpointError(f"{weights.path} has no {' and no '.join(missing)}, for {mode}")
    numbers = (weights.rows(n, 0, weights.tensors[n].shape[0]).astype(np.float64) for n in names)
    return Normalizer(mode, tuple(numbers), epsilon)
