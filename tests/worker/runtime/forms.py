"""Golden models and inputs, for tests of one model in several forms."""

import numpy as np
import torch

from tests.golden import FOLDER, overrides
from tests.worker.composition import model_config
from worker.models.pi0 import Pi0
from worker.runtime.loading import load_model

CPU = torch.device("cpu")
Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def golden_model(checkpoint: str, dtype: torch.dtype = torch.float32) -> Pi0:
    """A golden checkpoint's model as it is loaded: in its plain form."""
    config = model_config(*overrides(checkpoint))
    return load_model(config, FOLDER / checkpoint / "model.safetensors", CPU, dtype)


def inputs(batch: int, length: int = 6) -> Inputs:
    """Images of two cameras, prompts of `length` tokens and states, made up."""
    numbers = np.random.default_rng(0)
    images = numbers.integers(0, 256, (batch, 2, 224, 224, 3), dtype=np.uint8)
    tokens = numbers.integers(0, 1240, (batch, length))
    state = numbers.standard_normal((batch, 32), dtype=np.float32)
    return torch.from_numpy(images), torch.from_numpy(tokens), torch.from_numpy(state)


def noise(batch: int, horizon: int) -> torch.Tensor:
    """Where a flow starts, (batch, horizon, 32)."""
    return torch.randn((batch, horizon, 32), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def actions(model: Pi0, given: Inputs, steps: int = 3) -> torch.Tensor:
    """What `model` makes of `given`."""
    start = noise(len(given[0]), model.config.action_horizon)
    return model.sample(model.prefix(*given), start, model.flow_steps(steps))
