"""Running a model on requests: batches, devices and noise, of which the model knows nothing."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from worker.config import Device, Dtype, ModelConfig
from worker.errors import ConfigError
from worker.models.loading import load_model
from worker.transforms import ModelInput

Actions = npt.NDArray[np.float32]


class Runner:
    """A loaded model on its device."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Path | None,
        device: Device,
        dtype: Dtype,
        num_steps: int,
        seed: int,
    ) -> None:
        """Load the weights (None: seeded ones) and compute all that depends on time alone.

        Raises `CheckpointError` as `load_model` does, `ConfigError` where there is no such device.
        """
        self._config = config
        self._seed = seed
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype, self.device)
        self.model = load_model(config, weights, self.device, self.dtype)
        with torch.inference_mode():
            self._steps = self.model.flow_steps(num_steps)

    def __call__(self, requests: Sequence[ModelInput]) -> list[Actions]:
        """Normalised actions, float32 (horizon, action dim), of each request.

        Requests with equally many cameras and tokens run as one batch, so that nothing has to be
        padded or masked.
        """
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[len(request.images), len(request.tokens)].append(index)
        answers: dict[int, Actions] = {}
        for members in groups.values():
            batch = self._run([requests[i] for i in members])
            answers.update(zip(members, batch, strict=True))
        return [answers[i] for i in range(len(requests))]

    @torch.inference_mode()
    def _run(self, requests: list[ModelInput]) -> Actions:
        images = np.stack([np.stack(list(r.images.values())) for r in requests])
        tokens = np.stack([r.tokens for r in requests])
        state = np.stack([r.state for r in requests]).astype(np.float32)
        noise = np.stack([self._noise(r) for r in requests])
        cache = self.model.prefix(self._put(images), self._put(tokens), self._put(state))
        actions = self.model.sample(cache, self._put(noise), self._steps)
        result: Actions = actions.cpu().numpy()
        return result

    def _put(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    def _noise(self, request: ModelInput) -> npt.NDArray[np.float32]:
        if request.noise is not None:
            return request.noise
        # On the CPU and from both seeds: every worker with these settings draws the same.
        generator = np.random.default_rng([self._seed, request.seed or 0])
        shape = (self._config.action_horizon, self._config.action_dim)
        return generator.standard_normal(shape, dtype=np.float32)


def choose_device(device: Device) -> torch.device:
    """The torch device of the setting. Raises `ConfigError` for CUDA where there is none."""
    has_cuda = torch.cuda.is_available()
    if device is Device.cuda and not has_cuda:
        raise ConfigError("device=cuda: torch finds no CUDA device here; use device=cpu")
    return torch.device("cuda" if has_cuda and device is not Device.cpu else "cpu")


def choose_dtype(dtype: Dtype, device: torch.device) -> torch.dtype:
    """The torch dtype of the setting on `device`."""
    if dtype is Dtype.auto:
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if dtype is Dtype.bfloat16 else torch.float32
