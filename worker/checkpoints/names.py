"""Which tensor of a public checkpoint is which parameter of ours.

Checkpoints in PyTorch's form name their tensors after the modules of the transformers library.
"""

import re
from collections.abc import Iterable

from worker.checkpoints.public_names import EMBEDDING_NAME
from worker.checkpoints.weights import Weights
from worker.errors import CheckpointError

# Our module's name, and the public checkpoints' name for it.
_PALIGEMMA = "paligemma_with_expert.paligemma"
_RENAMES = (
    ("vision.head.", f"{_PALIGEMMA}.model.multi_modal_projector.linear."),
    ("vision.layers.", f"{_PALIGEMMA}.model.vision_tower.vision_model.encoder.layers."),
    (
        "vision.position_embedding",
        f"{_PALIGEMMA}.model.vision_tower.vision_model.embeddings.position_embedding.weight",
    ),
    (
        "vision.patch_embedding.",
        f"{_PALIGEMMA}.model.vision_tower.vision_model.embeddings.patch_embedding.",
    ),
    ("vision.", f"{_PALIGEMMA}.model.vision_tower.vision_model."),
    ("embedding", EMBEDDING_NAME),
    ("vlm.", f"{_PALIGEMMA}.model.language_model."),
    ("expert.", "paligemma_with_expert.gemma_expert.model."),
)
# The expert reads no text; and in LeRobot's older files lie the statistics too.
_UNUSED = (
    "paligemma_with_expert.gemma_expert.lm_head.",
    "normalize_inputs.",
    "normalize_targets.",
    "unnormalize_outputs.",
)


def checkpoint_name(name: str) -> str:
    """The public checkpoints' name of our parameter `name`."""
    for ours, theirs in _RENAMES:
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def match(weights: Weights, shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Which tensor of `weights` fills which parameter: the public name, by ours.

    Raises:
        CheckpointError: a tensor is missing, has another shape or is not of floats, or the model
            has no place for one.
    """
    left = dict(weights.tensors)
    matched: dict[str, str] = {}
    for name, shape in shapes.items():
        theirs = checkpoint_name(name)
        tensor = left.pop(theirs, None)
        if tensor is None and theirs in weights.not_floats:
            raise CheckpointError(
                f"{weights.path}: {theirs} has dtype {weights.not_floats[theirs]}: a weight is a"
                " float, and quantised weights are not read"
            )
        if tensor is None:
            raise CheckpointError(
                f"{weights.path} has no tensor {theirs}, which this model needs;"
                f" {_hint_of_absence(theirs, weights.tensors)}"
            )
        if tensor.shape != shape:
            raise CheckpointError(
                f"{weights.path}: {theirs} has shape {list(tensor.shape)}, expected"
                f" {list(shape)}; {_hint_of_shape(name)}"
            )
        matched[name] = theirs
    unexpected = sorted(name for name in left if not name.startswith(_UNUSED))
    if unexpected:
        raise CheckpointError(
            f"{weights.path} has {len(unexpected)} tensors that this model does not, the first"
            f" {unexpected[0]};"
            f" {_hint_of_absence(unexpected[0], map(checkpoint_name, shapes))}"
        )
    return matched


def _hint_of_absence(name: str, others: Iterable[str]) -> str:
    """Which settings decide that the public `name` is not among `others`."""
    layer = re.search(r"layers\.\d+\.", name)
    if layer and not any(name[: layer.end()] in other for other in others):
        return f"model.{_part(name)}.depth= probably differs"
    return "is it a pi0 or a pi05, or a pi0_fast? model= probably differs (or the file is none)"


def _hint_of_shape(name: str) -> str:
    """Which settings decide the shape of our parameter `name`."""
    if name == "embedding":
        return "model.vocab_size= or model.vlm.width= probably differs"
    if name.startswith(("action_in", "action_out", "state_")):
        return "model.action_dim= or model.expert.width= probably differs"
    part = "expert" if "time_mlp" in name else _part(name)
    for key, keys in _SHAPED_BY.items():
        if key in name:
            return " or ".join(f"model.{part}.{k}=" for k in keys) + " probably differs"
    return f"model.{part}.width= probably differs"


def _part(name: str) -> str:
    if "vision" in name:
        return "vision"
    return "expert" if name.startswith("expert.") or "gemma_expert." in name else "vlm"


_SHAPED_BY = {
    "mlp.": ("mlp_dim", "width"),
    "q_proj": ("num_heads", "head_dim", "width"),
    "o_proj": ("num_heads", "head_dim", "width"),
    "k_proj": ("num_kv_heads", "head_dim", "width"),
    "v_proj": ("num_kv_heads", "head_dim", "width"),
    "patch_embedding": ("patch_size", "width"),
    "position_embedding": ("patch_size", "width"),
}
