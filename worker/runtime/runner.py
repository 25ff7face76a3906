"""Runs pi0 on requests. Batches, buckets and noise are decided here, not in the model."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from worker.config import Dtype, ModelConfig, RuntimeConfig
from worker.device_name import Device
from worker.models.gemma import Cache
from worker.models.guidance import Guides, RowTimes, guide
from worker.models.pi0 import flow_times
from worker.robots.leftover import Guidance, Mode
from worker.robots.transforms import ModelInput
from worker.runtime.devices import choose_device, choose_dtype, put, watch_for_loss
from worker.runtime.graphs import Arrays, Captures, Compute, Replay
from worker.runtime.layout import arrange
from worker.runtime.loading import load_model

logger = logging.getLogger(__name__)

Actions = npt.NDArray[np.float32]


class Flow(StrEnum):
    """What a batch's flow follows besides the model: each is a computation of its own."""

    plain = "plain"
    guided = "guided"
    """Requests of `Mode.identity` and `Mode.trained`, and plain ones among them."""
    by_gradient = "by_gradient"
    """Requests of `Mode.vjp` alone: nobody else pays for a backward pass."""


FLOWS = {
    Mode.identity: Flow.guided,
    Mode.trained: Flow.guided,
    Mode.vjp: Flow.by_gradient,
}


@dataclass(frozen=True)
class Shape:
    """The shape of a batch; one graph is captured for each."""

    batch: int
    cameras: int
    tokens: int
    """Of the prompt; with `padded` an upper bound."""
    padded: bool
    flow: Flow = Flow.plain


class Runner:
    """A loaded model on its device."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Path | None,
        device: Device,
        dtype: Dtype,
        runtime: RuntimeConfig,
        num_steps: int,
        seed: int,
    ) -> None:
        """Load the weights and compute all that depends on the flow's time alone.

        Where `weights` is None, seeded ones are made up.

        Raises:
            CheckpointError: the weights do not fit, as `load_model` says.
            SettingsError: there is no such device, or no room on it.
        """
        self._config, self._seed = config, seed
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device, config.embedded)
        self.model = load_model(config, weights, self.device, self.dtype)
        with torch.no_grad():
            self._steps = self.model.flow_steps(num_steps)
            self._times = flow_times(num_steps)
            self._row_times = RowTimes(self.model.flow_step(0.0), self._steps)
            arrange(self.model, self.device, runtime.compile)
        wanted = runtime.compile or self.device.type == "cuda"
        self._uses_graphs = wanted if runtime.graphs is None else runtime.graphs
        self._flows = flows(runtime.rtc)
        self._buckets = buckets(config.max_token_len, runtime.prompt_buckets)
        self._captures = Captures(self.device)
        self._replays: dict[Shape, Replay] = {}

    def prepare(self, batches: int, cameras: Iterable[int], length: int | None) -> None:
        """Capture a graph for every shape that may come; without graphs there is nothing to do.

        Args:
            batches: the largest batch.
            cameras: how many cameras an observation may have.
            length: tokens of the usual prompt, which gets graphs without padding.
        """
        if not self._uses_graphs:
            return
        shapes = [
            Shape(batch, count, tokens, padded, flow)
            for flow in self._flows
            for count in cameras
            for batch in range(1, batches + 1)
            for tokens, padded in [(b, True) for b in self._buckets] + [(length, False)]
            if tokens is not None
        ]
        for done, shape in enumerate(shapes, start=1):
            self._replay(shape)
            logger.info("prepared %d of %d shapes: %s", done, len(shapes), shape)

    def __call__(self, requests: Sequence[ModelInput]) -> list[Actions]:
        """Normalised actions, float32 (horizon, action dim), of each request.

        Requests with equally many cameras run as one batch. With graphs, shorter prompts are
        padded, and the padding masked; without, batches have prompts of one length.

        Raises:
            DeviceLost: the device failed.
        """
        answers: dict[int, Actions] = {}
        for shape, members in self._groups(requests).items():
            arrays = self._arrays([requests[i] for i in members], shape)
            with watch_for_loss(self.device):
                batch = self._run(shape, arrays)
            answers.update(zip(members, batch, strict=True))
        return [answers[i] for i in range(len(requests))]

    def infer(
        self,
        images: Tensor,
        tokens: Tensor,
        state: Tensor,
        noise: Tensor,
        lengths: Tensor | None = None,
    ) -> Tensor:
        """Prefix and all flow steps: float32 (batch, horizon, action dim). See `Pi0.prefix`."""
        return self.model.sample(
            self.model.prefix(images, tokens, state, lengths), noise, self._steps
        )

    def infer_guided(
        self,
        images: Tensor,
        tokens: Tensor,
        state: Tensor,
        noise: Tensor,
        previous: Tensor,
        weights: Tensor,
        limits: Tensor,
        given: Tensor | None = None,
        lengths: Tensor | None = None,
        by_gradient: bool = False,
    ) -> Tensor:
        """`infer`, with a flow that follows what `Guides` hold; see `guide`."""
        cache = self.model.prefix(images, tokens, state, lengths)
        velocity = partial(self._velocity, cache, given)
        guides = Guides(previous, weights, limits, given)
        return guide(velocity, noise, self._times, guides, by_gradient)

    def _velocity(self, cache: Cache, given: Tensor | None, step: int, noisy: Tensor) -> Tensor:
        at = self._steps[step] if given is None else self._row_times.at(step, given)
        return self.model.velocity(noisy, cache, at)

    def tensors(self, requests: Sequence[ModelInput]) -> dict[str, Tensor]:
        """The first four arguments of `infer`, by name, for requests of one shape."""
        cameras, length = len(requests[0].images), len(requests[0].tokens)
        return self._put(self._arrays(requests, Shape(len(requests), cameras, length, False)))

    def _put(self, arrays: Arrays) -> dict[str, Tensor]:
        return {name: put(array, self.device) for name, array in arrays.items()}

    def _groups(self, requests: Sequence[ModelInput]) -> dict[Shape, list[int]]:
        alike: dict[tuple[int, int, bool], list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            length = 0 if self._uses_graphs else len(request.tokens)
            by_gradient = _flow(request) is Flow.by_gradient
            alike[len(request.images), length, by_gradient].append(index)
        return {self._shape([requests[i] for i in members]): members for members in alike.values()}

    def _shape(self, requests: Sequence[ModelInput]) -> Shape:
        cameras, lengths = len(requests[0].images), [len(r.tokens) for r in requests]
        flow = next((f for f in map(_flow, requests) if f is not Flow.plain), Flow.plain)
        exact = Shape(len(lengths), cameras, lengths[0], padded=False, flow=flow)
        if len(set(lengths)) == 1 and (not self._uses_graphs or exact in self._replays):
            return exact
        longest = max(lengths)
        tokens = next((b for b in self._buckets if b >= longest), longest)
        return Shape(len(lengths), cameras, tokens, padded=True, flow=flow)

    def _run(self, shape: Shape, arrays: Arrays) -> Actions:
        if self._uses_graphs:
            return self._replay(shape)(arrays)
        with torch.no_grad():
            actions: Actions = self._compute(shape)(**self._put(arrays)).cpu().numpy()
        return actions

    def _replay(self, shape: Shape) -> Replay:
        if shape not in self._replays:
            example = self._blank(shape)
            self._replays[shape] = Replay(
                self._compute(shape), example, self.device, self._captures
            )
        return self._replays[shape]

    def _compute(self, shape: Shape) -> Compute:
        if shape.flow is Flow.plain:
            return self.infer
        return partial(self.infer_guided, by_gradient=shape.flow is Flow.by_gradient)

    def _arrays(self, requests: Sequence[ModelInput], shape: Shape) -> Arrays:
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "images": np.stack([np.stack(list(r.images.values())) for r in requests]),
            "tokens": np.stack(
                [np.pad(r.tokens, (0, shape.tokens - len(r.tokens))) for r in requests]
            ),
            "state": np.stack([r.state for r in requests]).astype(np.float32),
            "noise": np.stack([self._noise(r) for r in requests]),
        }
        if shape.padded:
            arrays["lengths"] = np.array([len(r.tokens) for r in requests], np.int64)
        if shape.flow is not Flow.plain:
            arrays |= self._guides([r.guidance for r in requests], shape)
        return arrays

    def _guides(self, guidances: Sequence[Guidance | None], shape: Shape) -> Arrays:
        """The fields of `Guides`; None follows nothing."""
        horizon, dims = self._config.action_horizon, self._config.action_dim
        nothing = np.zeros((horizon, dims), np.float32)
        free = Guidance(nothing, nothing[:, 0], 0.0, 0, Mode.identity)
        followed = [free if guidance is None else guidance for guidance in guidances]
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "previous": np.stack([g.previous for g in followed]),
            "weights": np.stack([g.weights for g in followed]),
            "limits": np.array([g.max_weight for g in followed], np.float32),
        }
        given = np.array([g.given for g in followed])
        # A graph has to hold every case; without one, equal times need no choosing.
        if shape.flow is Flow.guided and (self._uses_graphs or given.any()):
            arrays["given"] = np.arange(horizon) < given[:, None]
        return arrays

    def _blank(self, shape: Shape) -> Arrays:
        dims, horizon = self._config.action_dim, self._config.action_horizon
        arrays: dict[str, npt.NDArray[np.generic]] = {
            "images": np.zeros((shape.batch, shape.cameras, 224, 224, 3), np.uint8),
            "tokens": np.zeros((shape.batch, shape.tokens), np.int64),
            "state": np.zeros((shape.batch, dims), np.float32),
            "noise": np.zeros((shape.batch, horizon, dims), np.float32),
        }
        if shape.padded:
            arrays["lengths"] = np.full(shape.batch, shape.tokens, np.int64)
        if shape.flow is not Flow.plain:
            arrays |= self._guides([None] * shape.batch, shape)
        return arrays

    def _noise(self, request: ModelInput) -> npt.NDArray[np.float32]:
        if request.noise is not None:
            return request.noise
        # On the CPU and from both seeds: every worker with these settings draws the same.
        generator = np.random.default_rng([self._seed, request.seed or 0])
        shape = (self._config.action_horizon, self._config.action_dim)
        return generator.standard_normal(shape, dtype=np.float32)


def flows(modes: Iterable[str]) -> list[Flow]:
    """The computations that serve `modes`, and plain requests."""
    needed = {Flow.plain, *(FLOWS[Mode(mode)] for mode in modes)}
    return [flow for flow in Flow if flow in needed]


def _flow(request: ModelInput) -> Flow:
    return Flow.plain if request.guidance is None else FLOWS[request.guidance.mode]


def buckets(longest: int, count: int) -> list[int]:
    """`count` prompt lengths, evenly spaced up to `longest`."""
    return sorted({-(-longest * i // count) for i in range(1, count + 1)})
