"""What each form of real-time chunking adds to one flow step, by size of the model.

Only the action expert runs: keys and values of the prefix are made up, and its model is never in
memory. Weights are random; all forms do the same arithmetic whatever they are.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.machine import describe
from conf.compose import compose
from worker.config import ModelConfig, WorkerConfig
from worker.models.gemma import Cache
from worker.models.guidance import Guides, RowTimes, guide
from worker.models.pi0 import Pi0
from worker.runtime.fusing import fuse
from worker.runtime.packing import can_pack, pack

MODELS = ("tiny", "pi0", "pi05")
CAMERAS, PROMPT = 3, 48
GIVEN = 8
TIME = 0.5


@dataclass(frozen=True)
class Cost:
    """Milliseconds of one flow step at batch 1, the median of several."""

    model: str
    dtype: str
    plain_ms: float
    identity_ms: float
    trained_ms: float
    vjp_ms: float


def measure_costs(repeats: int, output: Path, console: Console) -> list[Cost]:
    """Measure all, print the table and write `guidance_cost.json`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    costs = [_cost(name, device, dtype, repeats) for name in MODELS]
    columns = ("model", "plain, ms", "identity", "trained", "vjp")
    table = Table(*columns, title=f"one flow step, {device.type}, {dtype}".replace("torch.", ""))
    for cost in costs:
        forms = (cost.identity_ms, cost.trained_ms, cost.vjp_ms)
        more = [f"{ms:.2f} ({ms / cost.plain_ms - 1:+.0%})" for ms in forms]
        table.add_row(cost.model, f"{cost.plain_ms:.2f}", *more)
    console.print(table)
    output.mkdir(parents=True, exist_ok=True)
    content = {**describe(), "device": device.type, "rows": [asdict(cost) for cost in costs]}
    (output / "guidance_cost.json").write_text(json.dumps(content, indent=1) + "\n")
    return costs


def _cost(name: str, device: torch.device, dtype: torch.dtype, repeats: int) -> Cost:
    config = compose("worker", WorkerConfig, ["env=aloha_sim", f"model={name}"]).model
    model, cache = _expert(config, device, dtype), _cache(config, device, dtype)
    shape = (1, config.action_horizon, config.action_dim)
    noisy, previous = (torch.randn(shape, device=device) for _ in range(2))
    with torch.no_grad():
        step = model.flow_step(TIME)
        rows = RowTimes(model.flow_step(0.0), [step])
    given = torch.arange(shape[1], device=device)[None] < GIVEN
    weights, limits = torch.ones(shape[:2], device=device), torch.ones(1, device=device)
    free = Guides(previous, weights, limits)
    prefix = Guides(previous, torch.zeros_like(weights), limits, given)

    def plain(number: int, x: Tensor) -> Tensor:
        return model.velocity(x, cache, step)

    def trained(number: int, x: Tensor) -> Tensor:
        return model.velocity(x, cache, rows.at(0, given))

    forms: list[Callable[[], Tensor]] = [
        lambda: torch.sub(noisy, plain(0, noisy), alpha=0.1),
        lambda: guide(plain, noisy, [TIME], free, by_gradient=False),
        lambda: guide(trained, noisy, [TIME], prefix, by_gradient=False),
        lambda: guide(plain, noisy, [TIME], free, by_gradient=True),
    ]
    return Cost(name, str(dtype).removeprefix("torch."), *_medians(forms, device, repeats))


def _medians(forms: list[Callable[[], Tensor]], device: torch.device, repeats: int) -> list[float]:
    """Of each form, taken in turns so that a busy moment of the machine meets all of them."""
    spent: list[list[float]] = [[] for _ in forms]
    with torch.no_grad():
        for _ in range(repeats + 2):
            for form, times in zip(forms, spent, strict=True):
                started = time.perf_counter()
                form()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                times.append((time.perf_counter() - started) * 1e3)
    return [statistics.median(times[2:]) for times in spent]


def _expert(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Pi0:
    """A pi0 of which only what a flow step needs is there."""
    with torch.device("meta"):
        model = Pi0(config).requires_grad_(False)
    holder = nn.Module()
    for name, part in model.named_children():
        if name in ("vlm", "vision"):
            continue
        # Small projections are float32 in any model.
        part.to_empty(device=device).to(dtype if name == "expert" else torch.float32)
        for norm in (m for m in part.modules() if getattr(m, "dense", None) is not None):
            norm.float()
        for parameter in part.parameters():
            nn.init.normal_(parameter, std=0.02)
        holder.add_module(name, part)
    model.embedding = nn.Parameter(torch.zeros(1, 1, dtype=dtype), requires_grad=False)
    fuse(holder)
    if device.type == "cpu" and can_pack(dtype):
        pack(holder)
    return model


def _cache(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Cache:
    vlm, tokens = config.vlm, CAMERAS * config.vision.tokens + PROMPT
    shape = (1, vlm.num_kv_heads, tokens, vlm.head_dim)
    keys, values = (
        [torch.randn(shape, device=device, dtype=dtype) for _ in range(vlm.depth)] for _ in "kv"
    )
    return Cache(keys, values)
