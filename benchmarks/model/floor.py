"""How fast a model could be: its arithmetic and weights, and what the machine does of either.

Multiplications and additions of matrix products count as one operation each; a stage can't take
less time than its operations at the machine's best GEMM rate, nor than reading its weights once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from worker.config import Architecture, ExpertConfig, ModelConfig
from worker.runtime.packing import PackedLinear, can_pack

Clock = Callable[[], float]
"""Seconds since some moment."""

COLOURS = 3
RATE_RUNS = 7


@dataclass(frozen=True)
class Work:
    """The work of one stage, for a whole batch."""

    flop: float
    parameters: float
    """Read from memory, all times that they are read."""

    def floor_ms(self, flops: float, bytes_per_s: float, itemsize: int) -> float:
        """Milliseconds on a machine of these rates."""
        return 1e3 * max(self.flop / flops, self.parameters * itemsize / bytes_per_s)

    def times(self, count: int) -> Work:
        """This work, `count` times in a row."""
        return Work(count * self.flop, count * self.parameters)


@dataclass(frozen=True)
class Load:
    """What is asked of the model."""

    batch: int
    cameras: int
    prompt: int
    """Tokens."""
    steps: int


def count(config: ModelConfig, load: Load) -> dict[str, Work]:
    """The work of each stage; pi0-FAST reads each request by itself and writes token by token."""
    text = load.cameras * config.vision.tokens + load.prompt
    if config.architecture is Architecture.pi0_fast:
        alone = _vision(config, load.cameras), _prefix(config.vlm, 1, text)
        return {
            "vision": alone[0].times(load.batch),
            "prefix": alone[1].times(load.batch),
            "token": _token(config, load.batch, text),
        }
    state = 0 if config.discrete_state_input else 1
    expert = config.action_expert
    return {
        "vision": _vision(config, load.batch * load.cameras),
        "prefix": _prefix(config.vlm, load.batch, text),
        "denoising": _denoising(expert, load, text + state, config.action_horizon),
    }


def _vision(config: ModelConfig, images: int) -> Work:
    vision, tokens = config.vision, config.vision.tokens
    layer = 4 * vision.width**2 + 2 * vision.width * vision.mlp_dim
    ends = vision.width * (COLOURS * vision.patch_size**2 + config.vlm.width)
    parameters = vision.depth * layer + ends
    attention = vision.depth * 4 * tokens**2 * vision.width
    return Work(images * (2 * tokens * parameters + attention), parameters)


def _layer(config: ExpertConfig) -> tuple[int, int]:
    """Parameters of keys and values, and of all."""
    keys = 2 * config.width * config.num_kv_heads * config.head_dim
    queries = 2 * config.width * config.num_heads * config.head_dim
    return keys, keys + queries + 3 * config.width * config.mlp_dim


def _prefix(config: ExpertConfig, batch: int, tokens: int) -> Work:
    keys, layer = _layer(config)
    parameters = (config.depth - 1) * layer + keys
    attention = (config.depth - 1) * 4 * tokens**2 * config.num_heads * config.head_dim
    return Work(batch * (2 * tokens * parameters + attention), parameters)


def _denoising(config: ExpertConfig, load: Load, past: int, horizon: int) -> Work:
    _, layer = _layer(config)
    parameters = load.steps * config.depth * layer
    seen = 4 * horizon * (past + horizon) * config.num_heads * config.head_dim
    attention = load.steps * config.depth * seen
    return Work(load.batch * (2 * horizon * parameters + attention), parameters)


def _token(config: ModelConfig, batch: int, past: int) -> Work:
    """One more token of each answer: all layers, and the embedding as the head."""
    vlm = config.vlm
    _, layer = _layer(vlm)
    parameters = vlm.depth * layer + config.vocab_size * vlm.width
    seen = 2 * vlm.num_kv_heads * vlm.head_dim * past * vlm.depth
    attention = vlm.depth * 4 * past * vlm.num_heads * vlm.head_dim
    return Work(batch * (2 * parameters + attention), parameters + batch * seen)


def gemm_rate(device: torch.device, dtype: torch.dtype, clock: Clock = time.perf_counter) -> float:
    """Operations a second of a matrix product of the prefix's size.

    The best of several runs, and of plain and packed weights: whichever form the model uses, the
    floor is what the machine can do.
    """
    rows, width, hidden = 816, 2048, 16384
    plain = nn.Linear(width, hidden, bias=False, device=device, dtype=dtype)
    forms: list[nn.Module] = [plain]
    if device.type == "cpu" and can_pack(dtype):
        forms.append(PackedLinear(plain))
    x = torch.randn(rows, width).to(device, dtype)
    seconds = [min(times_s(lambda f=form: f(x), device, RATE_RUNS, clock)) for form in forms]  # type: ignore[misc]
    return 2 * rows * width * hidden / min(seconds)


def read_rate(device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Bytes read a second by a sum over what no cache holds."""
    source = torch.ones(2**28, device=device)
    return source.nbytes / min(times_s(source.sum, device, RATE_RUNS, clock))


def copy_rate(device: torch.device, clock: Clock = time.perf_counter) -> float:
    """Bytes read and written a second by a copy that no cache holds."""
    source = torch.ones(2**30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * len(source) / min(times_s(lambda: target.copy_(source), device, RATE_RUNS, clock))


@torch.no_grad()
def times_s(
    run: Callable[[], object],
    device: torch.device,
    times: int,
    clock: Clock = time.perf_counter,
) -> list[float]:
    """Seconds on `clock` of each run, after one that does not count."""
    run()
    taken = []
    for _ in range(times):
        synchronize(device)
        started = clock()
        run()
        synchronize(device)
        taken.append(clock() - started)
    return taken


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all."""
    if device.type == "cuda":
        torch.cuda.synchronize()
