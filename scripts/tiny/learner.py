"""The tiny model as it learns: how its weights begin, and what its loss is.

The model is the serving code's own. What is added lives beside it and is dropped when the weights
are written: a head that tells from the image tokens where the objects lie.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from scripts.tiny.dataset import OBJECTS, OBJECTS_OF, ROBOT_DIMS
from worker.checkpoints.names import checkpoint_name
from worker.config import ModelConfig
from worker.models.gemma import Cache
from worker.models.pi0 import Pi0
from worker.runtime.loading import load_model, read_weights

FLOW_TIMES = 4
"""At how many times the flow is learnt for each prefix, as the prefix costs more than they do."""
LONGEST_DELAY = 15
"""Actions that may be given already (300 ms), in half of the flows."""
PLACE_WEIGHT = 0.5
"""Of the auxiliary loss."""

_MATTERS = torch.tensor([0.8, 1.6, 1.8, 0.6, 1.2, 0.5, 0.5] * 2)
"""How much an error of each action counts, 1 on average: about as it moves the fingertips."""
_TRUSTED_TIME = 0.2
"""Corrections later than about this count less: a small time makes them large velocities."""
_COSINES = 8
_COLOURS = np.array([[1, 1, 1], [1, -1, 0], [0.5, 0.5, -1]])
"""Brightness, red against green, yellow against blue."""
_LEAST_SHARE = 0.02
"""Filters that answer less than this share of the strongest one are not scaled up to it."""


@dataclass(frozen=True)
class Batch:
    """Some frames of one task, all with one prompt; as tensors."""

    images: Tensor
    """uint8 (batch, 224, 224, 3)"""
    tokens: Tensor
    """int64 (batch, length)"""
    state: Tensor
    """float32 (batch, 14)"""
    chunks: Tensor
    """float32 (batch, horizon, 14)"""
    objects: Tensor
    """float32 (batch, objects, 2), decimetres"""
    task: str


class Learner(nn.Module):
    """The model with its auxiliary head."""

    def __init__(
        self, config: ModelConfig, images: Tensor, dtype: torch.dtype = torch.float32
    ) -> None:
        """`images`: some of the training's, uint8 (n, 224, 224, 3); `dtype`: the transformers'."""
        super().__init__()
        self.model = load_model(config, None, torch.device("cpu"), dtype)
        self.model.train().requires_grad_(True)
        self.places = nn.Linear(config.vlm.width, 3 * len(OBJECTS))
        nn.init.normal_(self.places.weight, std=0.05)
        self.places.to(dtype)
        self.padding = config.action_dim - ROBOT_DIMS
        with torch.no_grad():
            start_with_cosines(self.model.vision.patch_embedding, images)
        # Neighbouring pixels are alike, so that one step of the optimizer on thousands of them at
        # once would wipe out what the filters answer.
        self.model.vision.patch_embedding.requires_grad_(False)
        with torch.no_grad():
            for layer in (self.model.state_proj, self.model.action_in_proj):
                layer.weight[:, ROBOT_DIMS:] = 0.0
                cast(Any, layer.weight).register_hook(_without_padding)

    def refine(self, weights: Path) -> None:
        """Take a checkpoint's weights, of which the action expert's alone go on learning.

        Raises:
            CheckpointError: they do not fit, or are damaged.
        """
        read_weights(weights, {name: p.detach() for name, p in self.model.named_parameters()})
        for part in (self.model.vision, self.model.vlm, self.places):
            part.requires_grad_(False)
        self.model.embedding.requires_grad_(False)

    def forward(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The flow's loss, and the mean error of the objects' places in decimetres."""
        seen = self.model.vision(batch.images)
        cache = self._read(seen, batch.tokens)
        return self.act(cache, batch, generator), self._place_loss(seen, batch)

    def prefix(self, images: Tensor, tokens: Tensor) -> Cache:
        """Keys and values of pictures and prompts, as `Batch` has them, without the state."""
        return self._read(self.model.vision(images), tokens)

    def act(
        self,
        cache: Cache,
        batch: Batch,
        generator: torch.Generator,
        each: int = FLOW_TIMES,
        corrects: bool = False,
    ) -> Tensor:
        """The flow's loss at `each` times behind every prefix; of `batch`, no picture is used.

        With `corrects`, flows without given actions come from the model's own first guess of the
        actions, and must lead to the right ones: what is wrong with a guess, which the noise
        decides, would otherwise be kept to the end, as all other training shows only guesses that
        are right (exposure bias; compare "Input perturbation", arXiv 2301.11706).
        """
        state = self.model.embed_state(F.pad(batch.state, (0, self.padding))).to(self.model.dtype)
        cache = self.model.expert.extend(state, cache)
        return self._flow_loss(_repeat(cache, each), batch, generator, each, corrects)

    def look(self, batch: Batch) -> Tensor:
        """The second of `forward` alone, at a fifth of the cost."""
        return self._place_loss(self.model.vision(batch.images), batch)

    def _place_loss(self, image_tokens: Tensor, batch: Batch) -> Tensor:
        """Each token says where an object is, and how much it should be believed."""
        said = self.places(image_tokens).float().unflatten(-1, (len(OBJECTS), 3))
        said = said[:, :, list(OBJECTS_OF[batch.task])]
        belief = said[..., :1].softmax(dim=1)
        found: Tensor = (belief * said[..., 1:]).sum(1)
        return (found - batch.objects).abs().mean()

    def _read(self, seen: Tensor, tokens: Tensor) -> Cache:
        return self.model.vlm.extend(torch.cat([seen, self.model.embed_text(tokens)], dim=1))

    def _flow_loss(
        self, cache: Cache, batch: Batch, generator: torch.Generator, each: int, corrects: bool
    ) -> Tensor:
        clean = F.pad(batch.chunks.repeat_interleave(each, dim=0), (0, self.padding))
        noise = torch.randn(clean.shape, generator=generator)
        times, given = flow_times(len(batch.chunks), clean.shape[1], generator, each)
        noisy, right = clean + times[..., None] * (noise - clean), noise - clean
        weights = torch.ones_like(times)
        if corrects:
            free = ~given.any(dim=1)
            guess = self._first_guess(noise[free], cache, free)
            noisy[free], right[free], weights[free] = corrected(
                clean[free], noise[free], guess, times[free]
            )
        velocity = self.model.velocity(noisy, cache, self.model.flow_step(times))
        wrong = ((velocity.float() - right)[..., :ROBOT_DIMS].square() * _MATTERS).mean(-1)
        return (weights * wrong)[~given].mean()

    @torch.no_grad()
    def _first_guess(self, noise: Tensor, cache: Cache, chosen: Tensor) -> Tensor:
        """Where one step leads from pure noise behind the `chosen` prefixes, bool (batch,)."""
        behind = Cache([k[chosen] for k in cache.keys], [v[chosen] for v in cache.values])
        return noise - self.model.velocity(noise, behind, self.model.flow_step(1.0)).float()


def flow_times(
    batch: int, horizon: int, generator: torch.Generator, each: int = FLOW_TIMES
) -> tuple[Tensor, Tensor]:
    """Times, float32 (batch * each, horizon), and which actions are given already (bool).

    The times are of Beta(1.5, 1), as in pi0's training, in `each` strata for every prefix. In
    every other flow the first actions are given (clean, at time 0): as many as a delay says, which
    is drawn uniformly from 0 on.
    """
    strata = torch.arange(each) + torch.rand(batch, each, generator=generator)
    # The inverse of the distribution function t^1.5; never 0, which only given actions have.
    times = 0.001 + 0.999 * (strata / each) ** (1 / 1.5)
    delays = torch.randint(0, LONGEST_DELAY + 1, (batch, each), generator=generator)
    # The strata with a delay change places from prefix to prefix.
    turn = (torch.arange(each) + torch.arange(batch)[:, None]) % 2
    given = torch.arange(horizon) < (delays * turn).flatten()[:, None]
    return times.flatten()[:, None].masked_fill(given, 0.0), given


def corrected(
    clean: Tensor, noise: Tensor, guess: Tensor, times: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where a flow to `guess` is at `times`, what leads from there to `clean`, and its weight.

    Actions are (batch, horizon, dims), times and weights (batch, horizon).
    """
    at = times[..., None]
    noisy = guess + at * (noise - guess)
    return noisy, (noisy - clean) / at, times**2 / (times**2 + _TRUSTED_TIME**2)


def start_with_cosines(patches: nn.Conv2d, images: Tensor) -> None:
    """Filters (width, 3, size, size) become low cosines of each colour; those left over stay.

    Each is scaled so that what it answers to `images`, uint8 (n, height, width, 3), deviates by 1.

    From random filters a small model does not learn to see in a short training: where the arms are
    predicts most of what comes next, and the picture is ignored. These are the first functions of
    the discrete cosine transform, as JPEG uses it.
    """
    size = patches.kernel_size[0]
    places = (np.arange(size) + 0.5) * np.pi / size
    waves = np.cos(np.arange(_COSINES)[:, None] * places)
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    planes = np.einsum("ay,bx->abyx", waves, waves).reshape(-1, size, size)
    colours = _COLOURS / np.linalg.norm(_COLOURS, axis=1, keepdims=True)
    filters: NDArray[np.float64] = np.einsum("kyx,cr->kcryx", planes, colours)
    count = min(len(filters) * 3, len(patches.weight))
    patches.weight[:count] = torch.from_numpy(filters.reshape(-1, 3, size, size)[:count]).float()
    weight, bias = patches.weight.float(), cast(Tensor, patches.bias).float()
    pixels = images.permute(0, 3, 1, 2).float() / 127.5 - 1.0
    answers = F.conv2d(pixels, weight, bias, patches.stride).transpose(0, 1).flatten(1)
    mean, deviation = answers.mean(1), answers.std(1)
    deviation = deviation.clamp(min=_LEAST_SHARE * float(deviation.max()))
    patches.weight.div_(deviation[:, None, None, None])
    cast(Tensor, patches.bias).copy_(-mean / deviation)


def export_names(model: Pi0) -> dict[str, str]:
    """The public checkpoints' name of every parameter, by ours."""
    return {name: checkpoint_name(name) for name, _ in model.named_parameters()}


def _without_padding(gradient: Tensor) -> Tensor:
    """Inputs that are only padding get no weights: at inference they hold noise."""
    gradient = gradient.clone()
    gradient[:, ROBOT_DIMS:] = 0.0
    return gradient


def _repeat(cache: Cache, times: int) -> Cache:
    keys = [k.repeat_interleave(times, dim=0) for k in cache.keys]
    return Cache(keys, [v.repeat_interleave(times, dim=0) for v in cache.values])
