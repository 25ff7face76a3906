"""pi0 and pi0.5: a vision-language prefix, and an action expert that flows from noise to actions.

After "pi0" (arXiv 2410.24164) and "pi0.5" (arXiv 2504.16054). Time t runs from 1 (noise) to 0
(actions). Absent cameras and prompt padding never reach the model: their positions do not count
and nothing attends to them, so leaving them out is exact.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worker.config import Architecture, ModelConfig
from worker.models.gemma import Cache, Gemma, Modulation
from worker.models.paligemma import PaliGemma


@dataclass
class FlowStep:
    """The part of one flow step that depends on its time alone."""

    cond: Tensor
    """Float32. pi0: the time's share of the first action MLP; pi0.5: the condition.

    (width,) where all tokens are at one time; else (batch, horizon, width)."""
    modulations: list[Modulation] | None
    """pi0.5: what the time makes of every norm of the expert."""


class Pi0(PaliGemma):
    """pi0 or pi0.5, as `model.architecture` says."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.pi05 = config.architecture is Architecture.pi05
        self.width = width = config.action_expert.width
        self.expert = Gemma(config.action_expert, adaptive=self.pi05)
        self.action_in_proj = nn.Linear(config.action_dim, width)
        self.action_out_proj = nn.Linear(width, config.action_dim)
        if self.pi05:
            self.time_mlp_in = nn.Linear(width, width)
            self.time_mlp_out = nn.Linear(width, width)
        else:
            self.state_proj = nn.Linear(config.action_dim, width)
            self.action_time_mlp_in = nn.Linear(2 * width, width)
            self.action_time_mlp_out = nn.Linear(width, width)

    def prefix(
        self, images: Tensor, tokens: Tensor, state: Tensor, lengths: Tensor | None = None
    ) -> Cache:
        """Keys and values of all tokens that stay the same over the flow's steps.

        Shapes as in `embed_prefix`; `state`: float32 (batch, action dim), normalised; `lengths`:
        int64 (batch,), how many of `tokens` are not padding, None: all. pi0's state token sees the
        prefix but not the actions, so it belongs here too; pi0.5 has none.
        """
        x, valid = self.embed_prefix(images, tokens), None
        if lengths is not None:
            ends = x.shape[1] - tokens.shape[1] + lengths
            valid = torch.arange(x.shape[1], device=x.device) < ends[:, None]
        cache = self.vlm.extend(x, valid=valid)
        if self.pi05:
            return cache
        return self.expert.extend(self.embed_state(state).to(self.dtype), cache)

    def embed_state(self, state: Tensor) -> Tensor:
        """pi0's state token, (batch, 1, expert width), of `state` (batch, action dim)."""
        token: Tensor = self.state_proj(state)
        return token[:, None]

    def flow_step(self, time: float | Tensor) -> FlowStep:
        """What the network needs of `time`, once for all requests.

        A tensor (batch, horizon) gives every action a time of its own: 0 for those that are
        given already, as in training-time real-time chunking (arXiv 2512.05964).
        """
        embedded = embed_time(time, self.width).to(self.action_in_proj.weight.device)
        if not self.pi05:
            weight = self.action_time_mlp_in.weight[:, self.width :]
            return FlowStep(F.linear(embedded, weight, self.action_time_mlp_in.bias), None)
        cond = F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(embedded))))
        return FlowStep(cond, self.expert.modulations(cond, self.dtype))

    def flow_steps(self, count: int) -> list[FlowStep]:
        """What the network needs of each of `flow_times(count)`."""
        return [self.flow_step(time) for time in flow_times(count)]

    def embed_actions(self, noisy: Tensor, step: FlowStep) -> Tensor:
        """The expert's action tokens, (batch, horizon, width), of `noisy` (batch, horizon, dim)."""
        tokens: Tensor = self.action_in_proj(noisy)
        if self.pi05:
            return tokens
        weight = self.action_time_mlp_in.weight[:, : self.width]
        mixed: Tensor = self.action_time_mlp_out(F.silu(F.linear(tokens, weight) + step.cond))
        return mixed

    def velocity(self, noisy: Tensor, cache: Cache, step: FlowStep) -> Tensor:
        """The flow at `noisy`, float32 (batch, horizon, action dim); differentiable in it."""
        tokens = self.embed_actions(noisy, step).to(self.dtype)
        out: Tensor = self.action_out_proj(self.expert(tokens, cache, step.modulations).float())
        return out

    def sample(self, cache: Cache, noise: Tensor, steps: list[FlowStep]) -> Tensor:
        """Actions, float32 (batch, horizon, action dim), from `noise` of that shape."""
        actions = noise
        for step in steps:
            velocity = self.velocity(actions, cache, step)
            actions = torch.sub(actions, velocity, alpha=1.0 / len(steps))
        return actions


def flow_times(count: int) -> list[float]:
    """1, 1 - dt, ..., summed in float32 as the models were trained and are served."""
    dt = np.float32(-1.0 / count)
    times = [np.float32(1.0)]
    while len(times) < count:
        times.append(times[-1] + dt)
    return [float(time) for time in times]


def embed_time(time: float | Tensor, width: int) -> Tensor:
    """Sines, then cosines, of 2 pi time / period, float32 on the CPU: (width,), or (..., width).

    The latter for times (...). Periods lie geometrically between 0.004 and 4. The angles reach
    1571 rad, so float32 is part of what the weights were trained with: exact ones differ by 1e-4.
    """
    fractions = torch.linspace(0.0, 1.0, width // 2, dtype=torch.float32)
    periods = 4e-3 * (4.0 / 4e-3) ** fractions
    times = torch.as_tensor(time, dtype=torch.float32, device="cpu")[..., None]
    angles = times * (1.0 / periods * 2.0 * math.pi)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
