"""The scripted expert as a policy that answers in chunks, each with a noise of its own.

Its chunks are samples of a normal distribution around the expert's plan, drawn by a flow as pi0
draws its own. The flow of a normal distribution is known exactly, so every form of real-time
chunking can be tried, and its effect is seen without a model's mistakes. The noise is smooth over
time and about the same for a whole chunk, so two chunks in a row do not fit together.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scripts.tiny.expert import STEPS, Expert
from scripts.tiny.scene import TRANSFER, Scene
from worker.models.guidance import Guides, guide
from worker.models.pi0 import flow_times
from worker.robots.leftover import DEFAULTS, Guidance, Mode, parse_leftover

Array = NDArray[np.float64]

HORIZON, DIMS = 50, 14
FLOW_STEPS = 10
UNIT_RAD = 0.3
"""What the flow calls 1, about the spread of a joint over an episode."""
SMOOTH_OVER = 25.0
"""Control steps over which the noise of a chunk changes."""
GRIPPERS = [6, 13]
_GRIPPER_NOISE = 0.01  # of what joints have: a gripper that trembles drops the cube


class ExpertPolicy:
    """Answers `{"places": (1, 3), "progress": actions executed, "seed": int}`.

    `noise_rad`: the standard deviation of each joint's error in a chunk.
    """

    def __init__(self, noise_rad: float = 0.005) -> None:
        """`noise_rad`: the standard deviation of each chunk's own noise, in radians.

        Raises:
            ValueError: it is not more than 0.
        """
        if not noise_rad > 0.0:
            raise ValueError(f"noise_rad is {noise_rad}: radians, more than 0")
        self._expert = Expert(TRANSFER, Scene(TRANSFER).physics.model.ptr)
        self._flow = NormalFlow(noise_rad / UNIT_RAD)
        self._scale = np.full(DIMS, UNIT_RAD)
        self._scale[GRIPPERS] /= _GRIPPER_NOISE
        self._plans: dict[bytes, Array] = {}
        self.digest = f"expert-{noise_rad}"
        self.metadata = {
            "robot": "aloha",
            "model": "expert",
            "action_horizon": HORIZON,
            "action_dim": DIMS,
            "digest": self.digest,
            "rtc": list(Mode),
        }

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """`actions` (HORIZON, 14), from the action due at `progress` on.

        Raises:
            BadObservation: the leftover doesn't fit.
        """
        started = time.perf_counter()
        mean = self.plan(observation["places"], float(observation["progress"])) / self._scale
        leftover = parse_leftover(observation, HORIZON, DIMS)
        guidance = None
        if leftover is not None:
            guidance = leftover.guidance(leftover.actions / self._scale, (HORIZON, DIMS))
        random = np.random.default_rng(observation["seed"])
        noise = random.standard_normal((HORIZON, DIMS), dtype=np.float32)
        actions = self._flow.sample(mean, noise, guidance) * self._scale
        elapsed_ms = (time.perf_counter() - started) * 1e3
        return {"actions": actions, "policy_timing": {"infer_ms": elapsed_ms}}

    def plan(self, places: Array, progress: float) -> Array:
        """What the expert does from its step `progress` on, without noise: (HORIZON, 14)."""
        key = np.asarray(places, np.float64).tobytes()
        if key not in self._plans:
            self._plans[key] = self._expert.plan(np.asarray(places, np.float64))
        steps = np.minimum(progress + np.arange(HORIZON), STEPS - 1)
        below = np.floor(steps).astype(np.intp)
        share = (steps - below)[:, None]
        whole = self._plans[key]
        between: Array = (1 - share) * whole[below] + share * whole[
            np.minimum(below + 1, STEPS - 1)
        ]
        return between


class NormalFlow:
    """The exact flow to chunks with a given mean and a covariance that is smooth over time.

    With x_t = t * noise + (1 - t) * data and data ~ N(mean, C), the velocity noise - data has the
    expectation (x_t - E[data | x_t]) / t, and E[data | x_t] is linear in x_t.
    """

    def __init__(self, deviation: float) -> None:
        rows = np.arange(HORIZON)
        distance = (rows[:, None] - rows) / SMOOTH_OVER
        self._covariance = deviation**2 * np.exp(-0.5 * distance**2)
        self._times = flow_times(FLOW_STEPS)
        self._gain = lru_cache(maxsize=None)(self._make_gain)

    def sample(self, mean: Array, noise: NDArray[np.float32], guidance: Guidance | None) -> Array:
        """A chunk (HORIZON, DIMS), float64; all in the flow's units."""
        centre = torch.from_numpy(mean.astype(np.float32))[None]
        given = 0 if guidance is None else guidance.given

        def velocity(step: int, noisy: Tensor) -> Tensor:
            gain, times = self._gain(step, given)
            clean = centre + gain @ (noisy - (1.0 - times) * centre)
            # Given rows are at time 0 and do not flow.
            return torch.where(times > 0.0, (noisy - clean) / times.clamp(min=1e-6), 0.0)

        start = torch.from_numpy(noise)[None]
        by_gradient = guidance is not None and guidance.mode is Mode.vjp
        with torch.no_grad():
            chunk = guide(velocity, start, self._times, _guides(guidance), by_gradient)
        return chunk[0].numpy().astype(np.float64)

    def _make_gain(self, step: int, given: int) -> tuple[Tensor, Tensor]:
        """E[data | x] = mean + gain @ (x - (1 - t) mean), and t of each row, (HORIZON, 1)."""
        times = np.where(np.arange(HORIZON) < given, 0.0, self._times[step])
        kept = 1.0 - times
        total = kept[:, None] * self._covariance * kept + np.diag(times**2 + 1e-9)
        gain = np.linalg.solve(total, kept[:, None] * self._covariance).T
        as_tensors = (torch.from_numpy(a.astype(np.float32)) for a in (gain, times[:, None]))
        return tuple(as_tensors)  # type: ignore[return-value]


def _guides(guidance: Guidance | None) -> Guides:
    if guidance is None:
        nothing = np.zeros((HORIZON, DIMS), np.float32)
        guidance = Guidance(nothing, nothing[:, 0], DEFAULTS[Mode.identity][1], 0, Mode.identity)
    given = (torch.arange(HORIZON) < guidance.given)[None] if guidance.given else None
    return Guides(
        torch.from_numpy(guidance.previous)[None],
        torch.from_numpy(guidance.weights)[None],
        torch.tensor([guidance.max_weight]),
        given,
    )
