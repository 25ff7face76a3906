"""Runs pi0-FAST on requests: devices, graphs and when to stop are decided here."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from worker.config import Dtype, ModelConfig, RuntimeConfig
from worker.device_name import Device
from worker.models.fast import MAX_WRITTEN, Pi0Fast, Writing
from worker.robots.robot import CAMERAS
from worker.robots.tokenizers import Tokens
from worker.robots.transforms import ModelInput
from worker.runtime.devices import choose_device, choose_dtype, put, watch_for_loss
from worker.runtime.graphs import Captures
from worker.runtime.layout import arrange
from worker.runtime.loading import fill

CHECK_EVERY = 4
"""Steps on CUDA between two checks whether all answers have ended: a check waits for the device."""


class FastRunner:
    """A loaded pi0-FAST on its device."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Path | None,
        device: Device,
        dtype: Dtype,
        runtime: RuntimeConfig,
        cameras: int = len(CAMERAS),
        is_lerobot: bool = False,
    ) -> None:
        """Load the weights.

        Args:
            config: the model's sizes.
            weights: where they lie; None: seeded ones.
            device: where the model runs.
            dtype: what it computes in.
            runtime: how the process runs.
            cameras: the most that a request has.
            is_lerobot: whether LeRobot trained them, with one more token in each prompt and
                answers that follow it without a gap.

        Raises:
            CheckpointError: as `fill`.
            SettingsError: there is no such device, or no room on it.
        """
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device, config.embedded)
        with torch.device("meta"):
            model = Pi0Fast(config)
        model.gap = 0 if is_lerobot else 1
        self.model = fill(model, weights, self.device, self.dtype)
        with torch.no_grad():
            arrange(self.model, self.device, runtime.compile)
        images = max(cameras, len(CAMERAS)) * config.vision.tokens
        self._room = images + config.max_token_len + int(is_lerobot)
        on_cuda = self.device.type == "cuda"
        self._check_every = CHECK_EVERY if on_cuda else 1
        self._uses_graphs = on_cuda and runtime.graphs is not False
        self._captures = Captures(self.device)
        self._writings: dict[int, tuple[Writing, Callable[[], None]]] = {}

    def __call__(self, requests: Sequence[ModelInput]) -> list[Tokens]:
        """What the model writes, int64 (`MAX_WRITTEN`,), on each request; zeros after its end.

        All are decoded together, each as if it were alone, until the last has ended. An answer
        with `BROKEN` in it came from numbers that were not finite.

        Raises:
            DeviceLost: the device fails.
        """
        if not requests:
            return []
        with watch_for_loss(self.device):
            return self._write(requests)

    @torch.inference_mode()
    def _write(self, requests: Sequence[ModelInput]) -> list[Tokens]:
        writing, step = self.prepare(len(requests))
        self.read_all(requests, writing)
        for count in range(1, MAX_WRITTEN):
            if count % self._check_every == 0 and bool(writing.ended.all()):
                break
            step()
        return list(writing.written.cpu().numpy().copy())

    def read_all(self, requests: Sequence[ModelInput], writing: Writing) -> None:
        """Read each request's prefix and write the first token of its answer."""
        writing.clear()
        outputs = [self._read(request, writing, row) for row, request in enumerate(requests)]
        self.model.write_best(torch.cat(outputs), writing)

    @torch.inference_mode()
    def prepare(self, batch: int) -> tuple[Writing, Callable[[], None]]:
        """Memory for `batch` requests, and a function that does one step on it."""
        if batch not in self._writings:
            writing = self.model.blank(batch, self._room)
            self._writings[batch] = writing, self._make_step(writing)
        return self._writings[batch]

    def _make_step(self, writing: Writing) -> Callable[[], None]:
        if not self._uses_graphs:
            return lambda: self.model.step(writing)
        graph, _ = self._captures.capture(lambda: self.model.step(writing))
        return graph.replay

    def _read(self, request: ModelInput, writing: Writing, row: int) -> torch.Tensor:
        images = put(np.stack(list(request.images.values())), self.device)
        tokens = put(request.tokens, self.device)
        return self.model.read(images, tokens, writing, row)
