"""A model in several forms and one input, timed in turns, for `benchmarks.model.techniques`."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from conf.compose import compose
from worker.config import WorkerConfig
from worker.models.pi0 import Pi0
from worker.runtime.fusing import fuse
from worker.runtime.loading import load_model
from worker.runtime.packing import pack

CPU = torch.device("cpu")
STEPS = 10

Run = Callable[[], object]


@dataclass(frozen=True)
class Gain:
    """Milliseconds of one stage with a technique and without it: medians, and the fastest."""

    technique: str
    stage: str
    with_ms: float
    without_ms: float
    with_best_ms: float
    without_best_ms: float

    @property
    def ratio(self) -> float:
        """How many times as long it takes without, by the medians."""
        return self.without_ms / self.with_ms

    @property
    def best_ratio(self) -> float:
        """The same by the fastest runs: on a busy machine nearer to the truth."""
        return self.without_best_ms / self.with_best_ms

    def after(self, ms: float) -> Gain:
        """The same where so much else has to be done, with the technique or without."""
        times = (self.with_ms, self.without_ms, self.with_best_ms, self.without_best_ms)
        return Gain(self.technique, self.stage, *(ms + each for each in times))


class Bench:
    """The models in their forms, one input, and the gains found so far."""

    def __init__(self, depth: int, times: int) -> None:
        self._times, self.depth = times, depth
        self.gains: list[Gain] = []
        self.plain = made_up("pi0", depth)
        numbers = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (1, 3, 224, 224, 3), generator=numbers).byte()
        self.tokens = torch.randint(0, 64, (1, 48), generator=numbers)
        self.state = torch.randn((1, 32), generator=numbers)
        self.noise = torch.randn((1, 50, 32), generator=numbers)
        self.best = self.form(on_cpu, pack)
        self.embedded = self.best.embed_prefix(self.images, self.tokens)
        self.cache = self.best.prefix(self.images, self.tokens, self.state)
        self.steps = self.best.flow_steps(STEPS)

    def form(self, *rearrange: Callable[[Pi0], None]) -> Pi0:
        """A copy of the plain model, rearranged."""
        model = copy.deepcopy(self.plain)
        for each in rearrange:
            each(model)
        return model

    def compare(self, technique: str, stage: str, with_: Run, without: Run) -> None:
        """Take turns, and keep the medians."""
        taken: tuple[list[float], list[float]] = ([], [])
        for turn in range(-1, self._times):
            for run, seconds in zip((with_, without), taken, strict=True):
                started = time.perf_counter()
                run()
                if turn >= 0:
                    seconds.append(time.perf_counter() - started)
        medians = [1e3 * statistics.median(seconds) for seconds in taken]
        fastest = [1e3 * min(seconds) for seconds in taken]
        self.gains.append(Gain(technique, stage, *medians, *fastest))

    def prefix(self, model: Pi0) -> Run:
        """The wide Gemma on three images and the longest prompt."""
        return lambda: model.vlm.extend(self.embedded)

    def denoising(self, model: Pi0) -> Run:
        """All flow steps."""
        return lambda: model.sample(self.cache, self.noise, self.steps)

    def vision(self, model: Pi0) -> Run:
        """Three images."""
        return lambda: model.vision(self.images[0])


def on_cpu(model: Pi0) -> None:
    """Fuse `model` as a worker on a CPU does."""
    fuse(model, stacks_prefix=False)


def made_up(model: str, depth: int, *settings: str) -> Pi0:
    """Real widths, few layers and few words."""
    parts = [f"model.{part}.depth={depth}" for part in ("vision", "vlm", "expert")]
    sizes = [*parts, "model.vocab_size=64", *settings]
    config = compose("worker", WorkerConfig, ["env=aloha", f"model={model}", *sizes])
    return load_model(config.model, None, CPU, torch.float32)
