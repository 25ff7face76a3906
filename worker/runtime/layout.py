"""Brings a loaded model's weights into the form that runs fastest on a device."""

from typing import Any, cast

import torch
from torch import nn

from worker.models.gemma import Block, Gemma
from worker.models.paligemma import PaliGemma
from worker.models.siglip import SigLip
from worker.runtime.fusing import fuse
from worker.runtime.packing import can_pack, pack

RECOMPILE_LIMIT = 64
"""How many forms of a layer (masked or not, one token or many) torch compiles at most."""


def arrange(model: PaliGemma, device: torch.device, compiles: bool) -> None:
    """Bring a loaded model's weights into the form in which it runs fastest on `device`."""
    fuse(model, stacks_prefix=device.type != "cpu" or compiles)
    if compiles:
        compile_layers(model)
    elif device.type == "cpu" and can_pack(model.dtype):
        pack(model)


def compile_layers(model: nn.Module, backend: str = "inductor") -> None:
    """Have torch compile each layer at its first use; equal layers share the compiled code."""
    cast(Any, torch)._dynamo.config.recompile_limit = RECOMPILE_LIMIT
    for tower in [m for m in model.modules() if isinstance(m, Gemma | SigLip)]:
        for layer in tower.layers:
            layer.compile(dynamic=True, backend=backend)
            if isinstance(layer, Block):
                project = torch.compile(layer.project, dynamic=True, backend=backend)
                setattr(layer, "project", project)  # noqa: B010 - mypy forbids the plain form
