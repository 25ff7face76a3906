"""Fills a model with weights, from a checkpoint or from a fixed seed.

The module is built without memory (on torch's meta device), then each parameter is made once, in
its final dtype and place, and filled through a small buffer: a checkpoint is never in memory twice.
"""

import re
import zlib
from math import prod
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from worker.checkpoints.dtypes import BY_NAME
from worker.checkpoints.names import match
from worker.checkpoints.orbax_names import Array
from worker.checkpoints.weights import open_weights
from worker.config import ModelConfig
from worker.models.gemma import RMSNorm
from worker.models.pi0 import Pi0
from worker.runtime.devices import ensure_room

Model = TypeVar("Model", bound=nn.Module)


def load_model(
    config: ModelConfig, weights: Path | None, device: torch.device, dtype: torch.dtype
) -> Pi0:
    """Make the pi0 or pi0.5 of `config` and fill it, as `fill` does."""
    with torch.device("meta"):
        model = Pi0(config)
    return fill(model, weights, device, dtype)


def fill(model: Model, weights: Path | None, device: torch.device, dtype: torch.dtype) -> Model:
    """Fill `model`, which has no memory yet, with a checkpoint's weights (None: seeded ones).

    `weights` is anything that `open_weights` takes. `dtype` is that of the transformers; norms and
    small projections stay float32.

    Raises:
        CheckpointError: the file is damaged, or a tensor is missing, unexpected or misshapen.
        SettingsError: `device` has no room.
    """
    wide = _float32_parameters(model)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    dtypes = {name: torch.float32 if name in wide else dtype for name in shapes}
    ensure_room(sum(prod(shapes[name]) * dtypes[name].itemsize for name in shapes), device)
    if weights is None:
        for name, shape in shapes.items():
            _assign(model, name, seeded(name, shape).to(device, dtypes[name]))
    else:
        for name, shape in shapes.items():
            _assign(model, name, torch.empty(shape, dtype=dtypes[name], device=device))
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        read_weights(weights, parameters)
    return model.eval().requires_grad_(False)


def read_weights(path: Path, parameters: dict[str, Tensor]) -> None:
    """Fill `parameters`, which have our names, piece by piece.

    Raises:
        CheckpointError: as `fill`.
    """
    shapes = {name: tuple(p.shape) for name, p in parameters.items()}
    with open_weights(path) as weights:
        targets = {theirs: parameters[name] for name, theirs in match(weights, shapes).items()}
        for piece in weights.pieces(targets):
            target = targets[piece.name][piece.start : piece.start + len(piece.values)]
            # Rounding first and then transposing is faster than letting `copy_` do both.
            target.copy_(as_tensor(piece.values).to(target.dtype).contiguous())


def as_tensor(values: Array) -> Tensor:
    """The same memory as a tensor; torch does not know numpy's bfloat16."""
    kind = BY_NAME[values.dtype.name]
    if kind.safetensors == "BF16":
        return torch.from_numpy(values.view(np.uint16)).view(torch_dtype(kind.name))
    return torch.from_numpy(values)


def torch_dtype(name: str) -> torch.dtype:
    """Torch's dtype of a `FloatType`'s name."""
    found: torch.dtype = getattr(torch, name)
    return found


def seeded(name: str, shape: tuple[int, ...]) -> Tensor:
    """Made-up values for the parameter `name`, float32, the same in every process and release.

    Norms and biases do nothing, matrices keep the variance of what goes through them, and the
    last projection is small, so that an untrained model hardly moves the noise that it is given.
    """
    if len(shape) == 1:
        # Gemma's norms add one to their weight, so theirs is zero like a bias.
        is_layer_norm = re.search(r"^vision\..*layer_?norm\d?\.weight$", name) is not None
        return torch.full(shape, float(is_layer_norm))
    numbers = np.random.default_rng([0, zlib.crc32(name.encode())])
    fan_in = int(np.prod(shape[1:]))
    scale = 0.1 if name.startswith("action_out_proj") else 1.0
    values = numbers.standard_normal(shape, dtype=np.float32) * np.float32(scale * fan_in**-0.5)
    return torch.from_numpy(values)


def _float32_parameters(model: nn.Module) -> set[str]:
    """Names of the parameters that stay float32: Gemma's norms and the small projections."""
    norms = [f"{name}." for name, module in model.named_modules() if isinstance(module, RMSNorm)]
    towers = ("vision.", "embedding", "vlm.", "expert.")
    return {
        name
        for name, _ in model.named_parameters()
        if name.startswith(tuple(norms)) or not name.startswith(towers)
    }


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
