"""Writing a checkpoint's weights as one safetensors file, a layer at a time."""

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from worker.checkpoints.dtypes import BY_SAFETENSORS
from worker.checkpoints.files import TOKENIZER_NAMES
from worker.checkpoints.layout import WEIGHTS_FILE
from worker.checkpoints.lerobot import CONFIG, POSTPROCESSOR, PREPROCESSOR
from worker.checkpoints.public_names import EMBEDDING_NAME
from worker.checkpoints.safetensors_file import Description
from worker.checkpoints.weights import Weights
from worker.errors import CheckpointError
from worker.runtime.loading import as_tensor, torch_dtype

BESIDE = ("assets", "fast_tokenizer", *TOKENIZER_NAMES, CONFIG)
"""What else belongs to a checkpoint."""
LEROBOT_FILES = (f"{PREPROCESSOR}*", f"{POSTPROCESSOR}*")
"""What belongs to LeRobot's: steps and statistics."""
TIED_NAME = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
# Gemma's norms: a few numbers, which every worker computes with in float32.
_NORM = re.compile(r"(input_layernorm|post_attention_layernorm|language_model\.norm|model\.norm)\.")


def converted_dtype(name: str, chosen: str) -> str:
    """How the tensor `name` is stored in a file of dtype `chosen`.

    Norms and the small projections stay float32, as they are computed: bfloat16 would save nothing
    and lose what training gave them.
    """
    small = not name.startswith("paligemma_with_expert.") or _NORM.search(name)
    return "F32" if small else chosen


def convert(weights: Weights, folder: Path, dtype: str, advance: Callable[[int], None]) -> Path:
    """Write `folder/model.safetensors`; `advance` is told how many bytes were read.

    No more than one layer is in memory.

    Raises:
        CheckpointError: `weights` are damaged or the file does not fit on the disk; then no file
            is left.
    """
    tensors = {
        name: Description(converted_dtype(name, dtype), tensor.shape)
        for name, tensor in weights.tensors.items()
    }
    header, starts = _layout(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    needed = len(header) + sum(tensor.nbytes for tensor in tensors.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{folder} has {free / 1e9:.1f} GB free, and the weights take {needed / 1e9:.1f} GB"
        )
    growing = folder / f".{WEIGHTS_FILE}.partial"
    try:
        with growing.open("wb") as file:
            file.write(header)
            for name, start, values in weights.pieces():
                # Torch transposes three times as fast as numpy.
                kind = BY_SAFETENSORS[tensors[name].dtype]
                block = as_tensor(values).to(torch_dtype(kind.name)).contiguous()
                row_bytes = block.nbytes // len(block)
                file.seek(len(header) + starts[name] + start * row_bytes)
                file.write(block.view(-1).view(torch.uint8).numpy().data)
                advance(values.nbytes)
            file.flush()
            os.fsync(file.fileno())
        growing.replace(folder / WEIGHTS_FILE)
    finally:
        growing.unlink(missing_ok=True)
    return folder / WEIGHTS_FILE


def copy_rest(source: Path, target: Path) -> list[str]:
    """Copy what stands beside the weights; returns the names."""
    present = [name for name in BESIDE if (source / name).exists()]
    present += sorted(path.name for pattern in LEROBOT_FILES for path in source.glob(pattern))
    for name in present:
        if (source / name).is_dir():
            shutil.copytree(source / name, target / name, dirs_exist_ok=True)
        else:
            shutil.copy(source / name, target / name)
    return present


def _layout(tensors: Mapping[str, Description]) -> tuple[bytes, dict[str, int]]:
    """The file's beginning, and where each tensor starts after it."""
    # As the reference implementation says that two names share one tensor.
    metadata = {"format": "pt"}
    if EMBEDDING_NAME in tensors:
        metadata[TIED_NAME] = EMBEDDING_NAME
    header: dict[str, Any] = {"__metadata__": metadata}
    starts, end = {}, 0
    for name, tensor in tensors.items():
        starts[name], end = end, end + tensor.nbytes
        header[name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [starts[name], end],
        }
    text = json.dumps(header).encode()
    # Data begins at a multiple of eight, so that it can be mapped as it lies.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, starts
