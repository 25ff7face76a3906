"""Golden checkpoints as LeRobot would have saved them: the same weights, told in its own files."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from tests.golden import FAST_CHECKPOINT, FOLDER
from tests.worker.checkpoints.checkpoint_files import Weights, read_weights, whole_tensors
from worker.checkpoints.orbax import OrbaxWeights

VLM = "paligemma_with_expert.paligemma.model.language_model."
HEAD = "paligemma_with_expert.paligemma.lm_head.weight"
CAMERAS = {"pi0": ("top", "left", "right"), "pi05": ("side", "hand"), "pi0_fast": ("side", "hand")}
"""The data set's own names for them."""
PREPARE = {
    "pi0": "pi0_new_line_processor",
    "pi05": "pi05_prepare_state_tokenizer_processor_step",
    "pi0_fast": "pi0_fast_prepare_state_tokenizer_processor_step",
}
Change = Callable[[dict[str, Any]], None]


def golden_weights(checkpoint: str) -> Weights:
    """By their public names."""
    if checkpoint == FAST_CHECKPOINT:
        return whole_tensors(OrbaxWeights(FOLDER / checkpoint / "params"))
    return read_weights(FOLDER / checkpoint / "model.safetensors")


def shapes_of(checkpoint: str) -> dict[str, Any]:
    """Its `shapes.json`."""
    shapes: dict[str, Any] = json.loads((FOLDER / checkpoint / "shapes.json").read_text())
    return shapes


def save_as_lerobot(
    checkpoint: str,
    folder: Path,
    dims: tuple[int, int],
    *,
    cameras: Sequence[str] | None = None,
    change: Mapping[str, Change] | None = None,
) -> Path:
    """The golden `checkpoint` in `folder`, whose robot has `dims` numbers in state and action.

    `change`: what is done to the contents of the JSON files before they are written, by name.
    """
    folder.mkdir(parents=True)
    weights = {f"model.{name}": array for name, array in golden_weights(checkpoint).items()}
    save_file(weights, folder / "model.safetensors")
    contents = {
        "config.json": lerobot_config(checkpoint, dims, cameras),
        **pipelines(checkpoint, dims, cameras),
    }
    for name, content in contents.items():
        if change is not None and name in change:
            change[name](content)
        (folder / name).write_text(json.dumps(content))
    numbers = statistics(checkpoint, dims)
    for name in (
        "policy_preprocessor_step_2.safetensors",
        "policy_postprocessor_step_0.safetensors",
    ):
        save_file(numbers, folder / name)
    return folder


def save_as_older_lerobot(checkpoint: str, folder: Path, dims: tuple[int, int]) -> Path:
    """As LeRobot saved pi0 before it had processors: statistics and older names in the weights."""
    folder.mkdir(parents=True)
    weights = {f"model.{older_name(n)}": array for n, array in golden_weights(checkpoint).items()}
    numbers = statistics(checkpoint, dims)
    for kind in ("mean", "std"):
        state, action = numbers[f"observation.state.{kind}"], numbers[f"action.{kind}"]
        weights[f"normalize_inputs.buffer_observation_state.{kind}"] = state
        weights[f"normalize_targets.buffer_action.{kind}"] = action
        weights[f"unnormalize_outputs.buffer_action.{kind}"] = action.copy()
    save_file(weights, folder / "model.safetensors")
    config = lerobot_config(checkpoint, dims, None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def older_name(name: str) -> str:
    """The same tensor's name before transformers 4.52."""
    for new, old in (
        ("paligemma.lm_head.", "paligemma.language_model.lm_head."),
        ("paligemma.model.language_model.", "paligemma.language_model.model."),
        ("paligemma.model.vision_tower.", "paligemma.vision_tower."),
        ("paligemma.model.multi_modal_projector.", "paligemma.multi_modal_projector."),
    ):
        name = name.replace(new, old)
    return name


def statistics(checkpoint: str, dims: tuple[int, int]) -> dict[str, npt.NDArray[np.float32]]:
    """The golden statistics under LeRobot's names, and a counter as it also stores."""
    shapes = shapes_of(checkpoint)
    path = FOLDER / checkpoint / "assets" / shapes["asset_id"] / "norm_stats.json"
    stats = json.loads(path.read_text())["norm_stats"]
    return {
        f"{ours}.{kind}": np.asarray(values[:count], np.float32)
        for (theirs, ours), count in zip(
            (("state", "observation.state"), ("actions", "action")), dims, strict=True
        )
        for kind, values in stats[theirs].items()
        if values is not None
    }


def lerobot_config(
    checkpoint: str, dims: tuple[int, int], cameras: Sequence[str] | None
) -> dict[str, Any]:
    """`config.json`."""
    shapes = shapes_of(checkpoint)
    mode = "QUANTILES" if shapes["use_quantile_norm"] else "MEAN_STD"
    names = cameras or CAMERAS[shapes["model"]]
    return {
        "type": shapes["model"],
        "chunk_size": shapes["action_horizon"],
        "n_action_steps": shapes["action_horizon"],
        "max_state_dim": 32,
        "max_action_dim": 32,
        "tokenizer_max_length": 48 if shapes["model"] == "pi0" else 300,
        "input_features": {
            "observation.state": {"type": "STATE", "shape": [dims[0]]},
            **{
                f"observation.images.{name}": {"type": "VISUAL", "shape": [3, 224, 224]}
                for name in names
            },
            "observation.images.empty_camera_0": {"type": "VISUAL", "shape": [3, 224, 224]},
        },
        "output_features": {"action": {"type": "ACTION", "shape": [dims[1]]}},
        "normalization_mapping": {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode},
    }


def pipelines(
    checkpoint: str, dims: tuple[int, int], cameras: Sequence[str] | None
) -> dict[str, dict[str, Any]]:
    """`policy_preprocessor.json` and `policy_postprocessor.json`."""
    config = lerobot_config(checkpoint, dims, cameras)
    normalizes = {"eps": 1e-8, "features": {}, "norm_map": config["normalization_mapping"]}
    before = [
        step("rename_observations_processor", rename_map={}),
        step("to_batch_processor"),
        {
            **step("normalizer_processor", **normalizes),
            "state_file": "policy_preprocessor_step_2.safetensors",
        },
        step(PREPARE[config["type"]]),
        step("tokenizer_processor", tokenizer_name="google/paligemma-3b-pt-224", max_length=48),
        step("device_processor", device="cuda", float_dtype=None),
        step("relative_actions_processor", enabled=False, exclude_joints=[]),
    ]
    after = [
        {
            **step("unnormalizer_processor", **normalizes),
            "state_file": "policy_postprocessor_step_0.safetensors",
        },
        step("absolute_actions_processor", enabled=False),
        step("device_processor", device="cpu", float_dtype=None),
    ]
    return {
        "policy_preprocessor.json": {"name": "policy_preprocessor", "steps": before},
        "policy_postprocessor.json": {"name": "policy_postprocessor", "steps": after},
    }


def step(name: str, **config: Any) -> dict[str, Any]:
    """One step of a pipeline."""
    return {"registry_name": name, "config": config}
