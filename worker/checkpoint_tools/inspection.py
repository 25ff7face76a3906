"""What a checkpoint's tensors say about its model, and which settings serve it."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from conf.compose import FOLDER, ConfigError, compose
from worker.checkpoints.folders import asset_ids
from worker.checkpoints.lerobot import LeRobotPolicy
from worker.checkpoints.public_names import EMBEDDING_NAME
from worker.checkpoints.saved_config import SavedConfig
from worker.checkpoints.weights import Weights
from worker.config import Architecture, WorkerConfig
from worker.errors import CheckpointError, SettingsError
from worker.robots import find_robot
from worker.robots.lerobot import lerobot_cameras, lerobot_stats
from worker.robots.norm_stats import read_norm_stats

_VLM = "paligemma_with_expert.paligemma.model.language_model"
_EXPERT = "paligemma_with_expert.gemma_expert.model"
_VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model"

UNTOLD = ("action_horizon", "max_token_len", "discrete_state_input", "num_steps")
"""Dimensions that no tensor shows; a `config.json` may say them."""
SO400M = {"width": 1152, "num_heads": 16}
"""The public vision tower; the PyTorch form does not show how many heads it has."""


@dataclass(frozen=True)
class Fit:
    """One env that the checkpoint has statistics for."""

    env: str
    settings: list[str]
    """Everything that has to be on the command line beside `checkpoint=`."""
    problem: str | None
    """Why it cannot be served in spite of that; None if it can."""


def architecture(weights: Weights) -> Architecture:
    """Which model of the family it is.

    Raises:
        CheckpointError: it is none of them.
    """
    if EMBEDDING_NAME not in weights.tensors and f"{_VLM}.norm.weight" not in weights.tensors:
        raise CheckpointError(f"{weights.path} is no pi0, pi0.5 or pi0-FAST: it has no PaliGemma")
    if "action_in_proj.weight" not in weights.tensors:
        return Architecture.pi0_fast
    return Architecture.pi05 if "time_mlp_in.weight" in weights.tensors else Architecture.pi0


def dimensions(weights: Weights) -> dict[str, int]:
    """The model's dimensions by their keys below `model.`, without those that no tensor shows.

    Raises:
        CheckpointError: a tensor that shows one is missing.
    """
    shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    try:
        return dict(_dimensions(shapes, weights.leaf_shapes))
    except (KeyError, IndexError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{weights.path} is not whole, or no pi0: {error} tells a dimension"
        ) from error


def fits(weights: Weights, folder: Path, saved: SavedConfig | None) -> Iterator[Fit]:
    """Every env that `folder` brings statistics for.

    Raises:
        CheckpointError: `weights` are no model of the family.
    """
    model = architecture(weights)
    for name, config in _environments(model):
        settings = [f"env={name}", f"model={model}"]
        if saved is not None and saved.lerobot is not None:
            yield from _lerobot_fit(weights, config, saved.lerobot, settings)
        elif config.env.asset_id in asset_ids(folder):
            settings += _differing(weights, config)
            yield Fit(name, settings, statistics_problem(folder, config))


def environments_of(asset_id: str, model: Architecture) -> list[WorkerConfig]:
    """The settings that serve `model` with the statistics `asset_id`."""
    return [config for _, config in _environments(model) if config.env.asset_id == asset_id]


def statistics_problem(folder: Path, config: WorkerConfig) -> str | None:
    """Why a worker with the settings `config` would refuse the statistics; None: it would not."""
    robot = find_robot(config.env.robot)
    path = folder / "assets" / config.env.asset_id / "norm_stats.json"
    try:
        read_norm_stats(path, config.model.normalization, robot.state_dim, robot.action_dim)
    except CheckpointError as error:
        return str(error)
    return None


@cache
def _environments(model: Architecture) -> list[tuple[str, WorkerConfig]]:
    """Every env that goes with `model`; kept, as each takes about 60 ms to compose."""
    found = []
    for path in sorted((FOLDER / "env").glob("*.yaml")):
        with suppress(ConfigError):
            overrides = [f"env={path.stem}", f"model={model}"]
            found.append((path.stem, compose("worker", WorkerConfig, overrides)))
    return found


def _lerobot_fit(
    weights: Weights, config: WorkerConfig, policy: LeRobotPolicy, settings: list[str]
) -> Iterator[Fit]:
    """The env of a robot with as many numbers as LeRobot's policy was trained with."""
    robot = find_robot(config.env.robot)
    if (robot.state_dim, robot.action_dim) != (policy.state_dim, policy.action_dim):
        return
    if config.env.adapt_to_pi != policy.adapts_to_pi:
        settings.append(f"env.adapt_to_pi={str(policy.adapts_to_pi).lower()}")
    if any(config.env.delta_mask or ()) and not policy.has_delta_actions:
        settings.append("env.delta_mask=null")
    told = [f"model.{key}=" for key in policy.sizes]
    settings += [s for s in _differing(weights, config) if not s.startswith(tuple(told))]
    problem = None
    try:
        lerobot_cameras(robot, policy, None)
        lerobot_stats(config.env, policy)
    except (CheckpointError, SettingsError) as error:
        problem = str(error)
    yield Fit(config.env.name, settings, problem)


def statistics(folder: Path, asset_id: str) -> dict[str, dict[str, int]]:
    """Lengths of the statistics by part, with the kinds that are there.

    Raises:
        CheckpointError: the file holds none.
    """
    path = folder / "assets" / asset_id / "norm_stats.json"
    try:
        parts = json.loads(path.read_bytes())["norm_stats"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} holds no normalisation statistics: {error!r}") from error
    return {
        name: {kind: len(values) for kind, values in part.items() if isinstance(values, list)}
        for name, part in parts
        if isinstance(part, dict)
    }


def _dimensions(
    shapes: Mapping[str, tuple[int, ...]], leaves: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, int]]:
    if EMBEDDING_NAME in shapes:
        yield "vocab_size", shapes[EMBEDDING_NAME][0]
    if "action_in_proj.weight" in shapes:
        yield "action_dim", shapes["action_in_proj.weight"][1]
        yield from _gemma("expert", _EXPERT, "_1", shapes, leaves)
    yield from _gemma("vlm", _VLM, "", shapes, leaves)
    width, _, patch, _ = shapes[f"{_VISION}.embeddings.patch_embedding.weight"]
    yield "vision.width", width
    yield "vision.depth", _depth(f"{_VISION}.encoder.layers.", shapes)
    yield "vision.mlp_dim", shapes[f"{_VISION}.encoder.layers.0.mlp.fc1.bias"][0]
    yield "vision.patch_size", patch
    query = "PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/bias"
    if query in leaves:
        yield "vision.num_heads", leaves[query][1]
    elif width == SO400M["width"]:
        yield "vision.num_heads", SO400M["num_heads"]


def _gemma(
    part: str,
    prefix: str,
    suffix: str,
    shapes: Mapping[str, tuple[int, ...]],
    leaves: Mapping[str, tuple[int, ...]],
) -> Iterator[tuple[str, int]]:
    queries, width = shapes[f"{prefix}.layers.0.self_attn.q_proj.weight"]
    keys, _ = shapes[f"{prefix}.layers.0.self_attn.k_proj.weight"]
    # The PyTorch form has heads and their width in one; all public models share one key head.
    _, _, kv_heads, _, head_dim = leaves.get(
        f"PaliGemma/llm/layers/attn/kv_einsum{suffix}/w", (0, 2, 1, width, keys)
    )
    yield f"{part}.width", width
    yield f"{part}.depth", _depth(f"{prefix}.layers.", shapes)
    yield f"{part}.mlp_dim", shapes[f"{prefix}.layers.0.mlp.up_proj.weight"][0]
    yield f"{part}.num_heads", queries // head_dim
    yield f"{part}.num_kv_heads", kv_heads
    yield f"{part}.head_dim", head_dim


def _depth(prefix: str, names: Mapping[str, object]) -> int:
    found = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in names)
    return len({match[1] for match in found if match})


def _differing(weights: Weights, config: WorkerConfig) -> list[str]:
    """Settings for each dimension that is not the public model's."""
    model = asdict(config.model)
    standard = {
        f"{part}.{key}": value
        for part in ("vlm", "expert", "vision")
        for key, value in (model[part] or {}).items()
    }
    standard |= {key: model[key] for key in ("vocab_size", "action_dim")}
    found = dimensions(weights)
    settings = [
        f"model.{key}={value}" for key, value in found.items() if standard.get(key) != value
    ]
    if "vision.num_heads" not in found:
        settings.append("model.vision.num_heads=?")
    return settings
