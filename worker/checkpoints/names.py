"""Which tensor of a public checkpoint is which parameter of ours.

Checkpoints in PyTorch's form name their tensors after the modules of the transformers library.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from worker.checkpoints.safetensors_file import Description
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
    ("embedding", f"{_PALIGEMMA}.lm_head.weight"),
    ("vlm.", f"{_PALIGEMMA}.model.language_model."),
    ("expert.", "paligemma_with_expert.gemma_expert.model."),
)
# The embedding may be stored under its own name instead of, or beside, the tied head's.
_EMBEDDING = f"{_PALIGEMMA}.lm_head.weight"
_EMBED_TOKENS = f"{_PALIGEMMA}.model.language_model.embed_tokens.weight"
_UNUSED = frozenset({"paligemma_with_expert.gemma_expert.lm_head.weight", _EMBED_TOKENS})


class Tensors(Protocol):
    """A checkpoint's weights in either form, by their public names."""

    @property
    def path(self) -> Path:
        """Where they lie, for messages."""

    @property
    def tensors(self) -> Mapping[str, Description]:
        """What they are."""


def checkpoint_name(name: str) -> str:
    """The public checkpoints' name of our parameter `name`."""
    for ours, theirs in _RENAMES:
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    return name


def match(file: Tensors, shapes: dict[str, tuple[int, ...]]) -> dict[str, str]:
    """Which stored tensor fills which parameter: the file's own name, by ours.

    Raises `CheckpointError` where they don't fit.
    """
    # LeRobot stores the same tensors one level down.
    prefix = "model." if all(n.startswith("model.") for n in file.tensors) else ""
    left = {name.removeprefix(prefix): tensor for name, tensor in file.tensors.items()}
    matched: dict[str, str] = {}
    for name, shape in shapes.items():
        theirs = checkpoint_name(name)
        if theirs == _EMBEDDING and theirs not in left:
            theirs = _EMBED_TOKENS
        tensor = left.pop(theirs, None)
        if tensor is None:
            raise CheckpointError(
                f"{file.path} has no tensor {prefix}{theirs}, which this model needs;"
                f" {_hint_of_absence(theirs, file.tensors)}"
            )
        if tensor.shape != shape:
            raise CheckpointError(
                f"{file.path}: {prefix}{theirs} has shape {list(tensor.shape)}, expected"
                f" {list(shape)}; {_hint_of_shape(name)}"
            )
        matched[name] = prefix + theirs
    unexpected = sorted(left.keys() - _UNUSED)
    if unexpected:
        raise CheckpointError(
            f"{file.path} has {len(unexpected)} tensors that this model does not, the first"
            f" {prefix}{unexpected[0]};"
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
