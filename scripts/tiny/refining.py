"""A short training that goes on from a checkpoint: the action expert alone learns.

What it reads of a picture and prompt then never changes, so that it is computed once per frame.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scripts.tiny.dataset import Dataset, Frames
from scripts.tiny.learner import Batch, Learner
from scripts.tiny.training import SAVE_EVERY, Training, brightened
from worker.checkpoints.layout import WEIGHTS_FILE
from worker.config import ModelConfig
from worker.models.gemma import Cache

FRAMES = 16
"""Of each task in a step."""
FLOW_TIMES = 4
"""Behind each prefix."""
LEARNING_RATE = 3e-4


class Refining(Training):
    """A training of the action expert, from a checkpoint whose statistics `data` has."""

    def __init__(
        self,
        config: ModelConfig,
        data: Dataset,
        steps: int,
        output: Path,
        checkpoint: Path,
        save_every: int = SAVE_EVERY,
        batch: int = FRAMES,
        learning_rate: float = LEARNING_RATE,
        threads: int = 1,
    ) -> None:
        """Begin, or continue from `output/training.pt` if it exists.

        Raises:
            CheckpointError: the weights in `checkpoint` do not fit, or are damaged.
        """
        self._checkpoint = checkpoint
        super().__init__(config, data, steps, output, 0, save_every, batch, learning_rate, threads)
        self._prefixes = {
            frames.task.name: Prefixes(self.learner, frames, self._prompts[frames.task.name])
            for frames in data.frames
        }

    def _prepare(self) -> None:
        self.learner.refine(self._checkpoint / WEIGHTS_FILE)

    def _act(
        self,
        frames: Frames,
        chosen: NDArray[np.int64],
        batch: Batch,
        is_wrong: bool,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        if is_wrong:
            with torch.no_grad():
                cache = self.learner.prefix(batch.images, batch.tokens)
        else:
            cache = self._prefixes[frames.task.name].of(chosen)
        flow = self.learner.act(cache, batch, generator, FLOW_TIMES, corrects=True)
        return flow, torch.zeros(())


class Prefixes:
    """Keys and values of frames and their task's prompt, computed when they are first needed."""

    def __init__(self, learner: Learner, frames: Frames, tokens: Tensor) -> None:
        """`tokens`: of the prompt, int64 (length,)."""
        self._learner, self._frames, self._tokens = learner, frames, tokens
        self._known: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, chosen: NDArray[np.int64]) -> Cache:
        """Those of the frames with the numbers `chosen` (n,)."""
        self._compute([int(n) for n in np.unique(chosen) if int(n) not in self._known])
        keys, values = zip(*(self._known[int(number)] for number in chosen), strict=True)
        return Cache(list(torch.stack(keys, 1)), list(torch.stack(values, 1)))

    def _compute(self, missing: list[int]) -> None:
        if not missing:
            return
        # Seeded by the frame alone, so that a resumed training computes the same.
        images = [
            brightened(self._frames.images[number : number + 1], np.random.default_rng([1, number]))
            for number in missing
        ]
        with torch.no_grad():
            cache = self._learner.prefix(
                torch.from_numpy(np.concatenate(images)), self._tokens.expand(len(missing), -1)
            )
        both = torch.stack(cache.keys, 1), torch.stack(cache.values, 1)
        self._known |= dict(zip(missing, zip(*both, strict=True), strict=True))
