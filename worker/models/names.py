"""Which tensor of a public checkpoint is which parameter of ours.

Checkpoints in PyTorch's form name their tensors after the modules of the transformers library.
"""

import re

from worker.errors import CheckpointError
from worker.weights_file import StoredTensor, WeightsFile

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
    ("embedding.weight", f"{_PALIGEMMA}.lm_head.weight"),
    ("vlm.", f"{_PALIGEMMA}.model.language_model."),
    ("expert.", "paligemma_with_expert.gemma_expert.model."),
)
# The embedding may be stored under its own name instead of, or beside, the tied head's.
_EMBEDDING = f"{_PALIGEMMA}.lm_head.weight"
_EMBED_TOKENS = f"{_PALIGEMMA}.model.language_model.embed_tokens.weight"
_UNUSED = frozenset({"paligemma_with_expert.gemma_expert.lm_head.weight", _EMBED_TOKENS})


def checkpoint_name(name: str) -> str:
    """The public checkpoints' name of our parameter `name`."""
    for ours, theirs in _RENAMES:
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def match(file: WeightsFile, shapes: dict[str, tuple[int, ...]]) -> dict[str, StoredTensor]:
    """Which stored tensor fills which parameter. Raises `CheckpointError` where they don't fit."""
    # LeRobot stores the same tensors one level down.
    prefix = "model." if all(n.startswith("model.") for n in file.tensors) else ""
    left = {name.removeprefix(prefix): tensor for name, tensor in file.tensors.items()}
    matched: dict[str, StoredTensor] = {}
    for name, shape in shapes.items():
        theirs = checkpoint_name(name)
        if theirs == _EMBEDDING and theirs not in left:
            theirs = _EMBED_TOKENS
        tensor = left.pop(theirs, None)
        if tensor is None:
            raise CheckpointError(
                f"{file.path} has no tensor {prefix}{theirs}, which this model needs;"
                f" {_hint(name, missing=True)}"
            )
        if tensor.shape != shape:
            raise CheckpointError(
                f"{file.path}: {prefix}{theirs} has shape {list(tensor.shape)}, expected"
                f" {list(shape)}; {_hint(name)}"
            )
        matched[name] = tensor
    unexpected = sorted(left.keys() - _UNUSED)
    if unexpected:
        raise CheckpointError(
            f"{file.path} has {len(unexpected)} tensors that this model does not, the first"
            f" {prefix}{unexpected[0]}; {_hint(unexpected[0], missing=True)}"
        )
    return matched


def _hint(name: str, missing: bool = False) -> str:
    """Which settings decide about the parameter `name` (ours, or a checkpoint's)."""
    part = "vision" if "vision" in name else "expert" if "expert" in name else "vlm"
    layer = re.search(r"layers\.(\d+)\.", name)
    if missing and layer and "dense" not in name and "layernorm.weight" not in name:
        return f"model.{part}.depth= probably differs"
    if missing or "state_proj" in name or "time_mlp" in name:
        return "is it a pi0 or a pi05? model= probably differs (or the file is no pi0 at all)"
    if name == "embedding.weight":
        return "model.vocab_size= or model.vlm.width= probably differs"
    if name.startswith("action_"):
        return "model.action_dim= or model.expert.width= probably differs"
    for key, keys in _SHAPED_BY.items():
        if key in name:
            return " or ".join(f"model.{part}.{k}=" for k in keys) + " probably differs"
    return f"model.{part}.width= probably differs"


_SHAPED_BY = {
    "mlp.": ("mlp_dim", "width"),
    "q_proj": ("num_heads", "head_dim", "width"),
    "o_proj": ("num_heads", "head_dim", "width"),
    "k_proj": ("num_kv_heads", "head_dim", "width"),
    "v_proj": ("num_kv_heads", "head_dim", "width"),
    "patch_embedding": ("patch_size", "width"),
    "position_embedding": ("patch_size", "width"),
}
