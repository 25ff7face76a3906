"""Real-time chunking in the flow: the new chunk begins as a continuation of the previous one.

After "Real-Time Execution of Action Chunking Flow Policies" (arXiv 2506.07339). Time t runs from
1 (noise) to 0 (actions), as in `worker.models.pi0`; the paper's is 1 - t.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.models.gemma import Modulation
from worker.models.pi0 import FlowStep

Velocity = Callable[[int, Tensor], Tensor]
"""The flow at a step (counted from 0) and at noisy actions (batch, horizon, dim)."""


@dataclass(frozen=True)
class Guides:
    """What each request of a batch follows: nothing if its weights are zero and no row is given."""

    previous: Tensor
    """Float32 (batch, horizon, dim), normalised."""
    weights: Tensor
    """Float32 (batch, horizon), 0 to 1."""
    limits: Tensor
    """Float32 (batch,): the largest guidance weight."""
    given: Tensor | None = None
    """Bool (batch, horizon): rows that are taken from `previous`; None: no row at all."""

    def reset(self, actions: Tensor) -> Tensor:
        """`actions`, with the given rows put back to what was given."""
        if self.given is None:
            return actions
        return torch.where(self.given[..., None], self.previous, actions)

    def correction(self, time: float, error: Tensor) -> Tensor:
        """`error` (batch, horizon, dim) times the guidance weight at `time`."""
        return self.limits.clamp(max=guidance_weight(time))[:, None, None] * error


def guidance_weight(time: float) -> float:
    """How strongly a flow is pulled at `time`, before the limit: infinitely at the noise.

    (1 - tau) / tau * (tau^2 + (1 - tau)^2) / (1 - tau)^2 with tau = 1 - time: equation 2 of the
    paper, with its r_tau^2.
    """
    tau = 1.0 - time
    return float("inf") if tau <= 0.0 else (tau**2 + time**2) / (tau * time)


def guide(
    velocity: Velocity, noise: Tensor, times: Sequence[float], guides: Guides, by_gradient: bool
) -> Tensor:
    """Actions, float32 (batch, horizon, dim), that flow from `noise` as `guides` directs.

    `times`: of each step; `by_gradient`: the error goes back through the flow's Jacobian ("vjp"),
    else it acts as it is ("identity").
    """
    pull = _pull_by_gradient if by_gradient else _pull
    actions = noise
    for step, time in enumerate(times):
        actions = guides.reset(actions)
        flow, error = pull(velocity, step, time, actions, guides)
        actions = torch.sub(actions, flow - guides.correction(time, error), alpha=1.0 / len(times))
    return guides.reset(actions)


def _pull(
    velocity: Velocity, step: int, time: float, actions: Tensor, guides: Guides
) -> tuple[Tensor, Tensor]:
    """The flow, and how far the clean chunk that it leads to is from the previous one."""
    flow = velocity(step, actions)
    clean = torch.sub(actions, flow, alpha=time)
    return flow, guides.weights[..., None] * (guides.previous - clean)


def _pull_by_gradient(
    velocity: Velocity, step: int, time: float, actions: Tensor, guides: Guides
) -> tuple[Tensor, Tensor]:
    """The same, its error multiplied by the transposed Jacobian of the clean chunk in `actions`."""
    with torch.enable_grad():
        actions = actions.detach().requires_grad_()
        flow = velocity(step, actions)
        clean = torch.sub(actions, flow, alpha=time)
    error = guides.weights[..., None] * (guides.previous - clean.detach())
    (pulled,) = torch.autograd.grad(clean, actions, error)
    return flow.detach(), pulled


class RowTimes:
    """Flow steps in which some rows are at time 0 and the others at the step's own.

    All that depends on time was computed for both, so rows are only chosen between them. The many
    small vectors of pi0.5's norms lie in one tensor, so that choosing takes a kernel or two a step
    and not a hundred.
    """

    def __init__(self, clean: FlowStep, steps: Sequence[FlowStep]) -> None:
        """`clean`: the flow step of time 0."""
        self._clean, self._steps = clean, steps
        self._packed = [_Packed.of(step) for step in (clean, *steps)]

    def at(self, step: int, given: Tensor) -> FlowStep:
        """Step number `step`, its rows where `given` (batch, horizon) is true at time 0."""
        rows = given[..., None]
        cond = torch.where(rows, self._clean.cond, self._steps[step].cond)
        clean, own = self._packed[0], self._packed[1 + step]
        if clean is None or own is None:
            return FlowStep(cond, None)
        chosen = _Packed(
            torch.where(rows, clean.scales, own.scales), torch.where(rows, clean.gates, own.gates)
        )
        return FlowStep(cond, chosen.modulations(cond.shape[-1]))


@dataclass(frozen=True)
class _Packed:
    scales: Tensor
    """Float32 (..., 2 * norms * width): each norm's factor, then its shift."""
    gates: Tensor
    """(..., norms * width), in the model's dtype."""

    @staticmethod
    def of(step: FlowStep) -> "_Packed | None":
        if step.modulations is None:
            return None
        scales = [part for factor, shift, _ in step.modulations for part in (factor, shift)]
        gates = [gate for _, _, gate in step.modulations]
        return _Packed(torch.cat(scales, dim=-1), torch.cat(gates, dim=-1))

    def modulations(self, width: int) -> list[Modulation]:
        scales = self.scales.view(*self.scales.shape[:-1], -1, width).unbind(-2)
        gates = self.gates.view(*self.gates.shape[:-1], -1, width).unbind(-2)
        return list(zip(scales[::2], scales[1::2], gates, strict=True))
