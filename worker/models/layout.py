"""The form of a model's weights: as they were loaded, or as they run fastest on a device."""

import torch
from torch import nn

from worker.models.fusing import fuse
from worker.models.gemma import Gemma
from worker.models.packing import can_pack, pack
from worker.models.siglip import SigLip


def arrange(model: nn.Module, device: torch.device, compiles: bool) -> None:
    """Bring a loaded model's weights into the form in which it runs fastest on `device`."""
    fuse(model)
    if compiles:
        compile_layers(model)
    elif device.type == "cpu" and can_pack():
        pack(model)


def compile_layers(model: nn.Module) -> None:
    """Let torch compile each layer at first use; equal layers share what was compiled."""
    for tower in model.modules():
        if isinstance(tower, Gemma | SigLip):
            for layer in tower.layers:
                layer.compile(dynamic=True)
