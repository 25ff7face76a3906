"""How fast pi0, pi0.5 and pi0-FAST are, stage by stage, against what the machine could do.

`python -m benchmarks.model` measures the full pi0 with made-up weights; `--depth 2 --quick` gives
an impression within a minute. Writes `results/model-NAME.json` and a picture beside it.
"""

from __future__ import annotations

from conf.flags import Flags, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from worker.runtime.threads import ENVIRONMENT, set_threads

# As a worker does, and before torch is imported.
os.environ.update(ENVIRONMENT | os.environ)

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.machine import describe
from benchmarks.model.floor import Load, copy_rate, count, gemm_rate, read_rate, times_s
from benchmarks.model.plot import draw
from benchmarks.model.stages import (
    ANSWER_TOKENS,
    Stages,
    fast_stages,
    flow_stages,
    requests,
    transforms_s,
)
from benchmarks.neighbours import Neighbours
from conf.compose import compose
from worker.config import Architecture, Dtype, WorkerConfig
from worker.device_name import Device
from worker.runtime.devices import choose_device, choose_dtype
from worker.runtime.fast_runner import FastRunner
from worker.runtime.runner import Runner

RESULTS = Path(__file__).parents[1] / "results"
AGREEMENT = 1e-4
"""What answers of a batch may differ from those of single requests, in float32 at real size."""


Floors = dict[str, float]
"""Milliseconds by stage."""


@dataclass(frozen=True)
class Row:
    """One stage at one batch size. `ms` is the median; the transforms have no floor."""

    batch: int
    stage: str
    ms: float
    best_ms: float
    floor_ms: float | None

    @property
    def ratio(self) -> float | None:
        """The fastest run against the floor, which comes from the fastest GEMM and copy."""
        return None if self.floor_ms is None else self.best_ms / self.floor_ms


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = Flags("python -m benchmarks.model", __doc__)
    parser.add_argument("--model", default="pi0", choices=["pi0", "pi05", "pi0_fast", "tiny"])
    parser.add_argument(
        "--device", type=Device, default=Device.auto, help="cpu, cuda, cuda:N, auto"
    )
    parser.add_argument("--dtype", default="auto", choices=list(Dtype))
    parser.add_argument("--depth", type=int, help="layers at most; default: all")
    parser.add_argument("--cameras", type=int, default=3, choices=[1, 2, 3])
    parser.add_argument("--prompt", type=int, help="tokens; default: the longest")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--times", type=int, default=5, help="runs of which the median counts")
    parser.add_argument("--threads", type=int, help="of torch, on a CPU; default: all cores")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the process's CPU seconds: with --threads 1, on a machine that is busy",
    )
    parser.add_argument("--compile", action="store_true", help="let torch compile the layers")
    parser.add_argument(
        "--agreement", action="store_true", help="also compare a batch of two with single answers"
    )
    parser.add_argument("--quick", action="store_true", help="one run, batches 1 and 2")
    parser.add_argument("--name", help="of the results; default: model, device and depth")
    given = parser.read(arguments)
    if given.agreement and given.model == "pi0_fast":
        parser.error("--agreement: the answers of pi0_fast are tokens, which tests compare")
    if given.quick:
        given.batches, given.times = [1, 2], 1
    return given


def composed(given: argparse.Namespace) -> WorkerConfig:
    """The worker's settings with the depth cut."""
    env = "droid" if given.model == "pi0_fast" else "aloha"
    config = compose("worker", WorkerConfig, [f"env={env}", f"model={given.model}"])
    config.runtime.compile = given.compile
    config.runtime.slots = max(given.batches, default=1)
    if given.depth is not None:
        for part in (config.model.vision, config.model.vlm, config.model.expert):
            if part is not None:
                part.depth = min(part.depth, given.depth)
    return config


def row(batch: int, stage: str, seconds: list[float], floor_ms: float | None) -> Row:
    """What several runs come to."""
    return Row(batch, stage, 1e3 * statistics.median(seconds), 1e3 * min(seconds), floor_ms)


def make_runner(config: WorkerConfig, given: argparse.Namespace) -> Runner | FastRunner:
    """The model with made-up weights, as a worker would load it."""
    device, dtype = given.device, Dtype(given.dtype)
    if config.model.architecture is Architecture.pi0_fast:
        return FastRunner(config.model, None, device, dtype, config.runtime)
    return Runner(config.model, None, device, dtype, config.runtime, config.num_steps, 0)


def prepared(runner: Runner | FastRunner, config: WorkerConfig, load: Load) -> Stages:
    """The stages at this load, ready to be timed."""
    given = requests(config, load)
    if isinstance(runner, FastRunner):
        return fast_stages(runner, given)
    runner.prepare(load.batch, [load.cameras], load.prompt)
    return flow_stages(runner, given, load.steps)


def floors(config: WorkerConfig, load: Load, rates: dict[str, float], itemsize: int) -> Floors:
    """Milliseconds by stage; `whole` is their sum, with every token of an answer."""
    memory = max(rates["copy"], rates["read"])
    found = {
        stage: work.floor_ms(rates["gemm"], memory, itemsize)
        for stage, work in count(config.model, load).items()
    }
    found["whole"] = sum(ms * (ANSWER_TOKENS if s == "token" else 1) for s, ms in found.items())
    return found


def disagreement(runner: Runner | FastRunner, config: WorkerConfig, load: Load) -> float:
    """The largest difference between the answers of a batch of two and of single requests."""
    given = requests(config, replace(load, batch=2))
    together, alone = runner(given), [runner([each])[0] for each in given]
    return float(np.abs(np.stack(together) - np.stack(alone)).max())


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All rows, with the machine's rates, as plain data."""
    config = composed(given)
    clock = time.process_time if given.cpu_time else time.perf_counter
    set_threads(given.threads, embedded=False)
    device = choose_device(given.device)
    dtype = choose_dtype(Dtype(given.dtype), device)
    before = gemm_rate(device, dtype, clock)
    memory = {"copy": copy_rate(device, clock), "read": read_rate(device, clock)}
    runner = make_runner(config, given)
    prompt = config.model.max_token_len if given.prompt is None else given.prompt
    rows = [row(1, "transforms", transforms_s(given.times, clock), None)]
    neighbours, own = Neighbours(), time.process_time()
    timed: list[tuple[Load, str, list[float]]] = []
    for batch in track(given.batches, description="batches"):
        load = Load(batch, given.cameras, prompt, config.num_steps)
        for stage, run in prepared(runner, config, load).items():
            timed.append((load, stage, times_s(run, device, given.times, clock)))
    others = neighbours.cores(time.process_time() - own)
    # Measured again: on a busy machine the better of the two is nearer to what it can do.
    after = gemm_rate(device, dtype, clock)
    rates = {"gemm": max(before, after), **memory}
    for load, stage, seconds in timed:
        floor = floors(config, load, rates, runner.dtype.itemsize)
        rows.append(row(load.batch, stage, seconds, floor[stage]))
    result = {
        **describe(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "others_cores": round(others, 2),
        "settings": {**vars(given), "prompt": prompt},
        "dtype": str(runner.dtype).removeprefix("torch."),
        "gemm_tflops": [round(rate / 1e12, 4) for rate in (before, after)],
        "copy_gb_per_s": round(memory["copy"] / 1e9, 1),
        "read_gb_per_s": round(memory["read"] / 1e9, 1),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "rows": [{**asdict(each), "ratio": each.ratio} for each in rows],
    }
    if given.agreement:
        load = Load(1, given.cameras, prompt, config.num_steps)
        result["batch_against_single"] = disagreement(runner, config, load)
    return result


def table(result: dict[str, Any]) -> Table:
    """The rows for people."""
    before, after = result["gemm_tflops"]
    printed = Table(
        "batch",
        "stage",
        "ms",
        "best",
        "floor",
        "ratio",
        "chunks/s",
        title=f"{result['dtype']} on {result['device']}: GEMM {before} TFLOP/s before and {after}"
        f" after, copy {result['copy_gb_per_s']} GB/s (read and written), read"
        f" {result['read_gb_per_s']} GB/s; others kept {result['others_cores']} cores busy",
    )
    for each in result["rows"]:
        batch, stage, ms = each["batch"], each["stage"], each["ms"]
        floor = "" if each["floor_ms"] is None else f"{each['floor_ms']:.1f}"
        ratio = "" if each["ratio"] is None else f"{each['ratio']:.2f}"
        rate = f"{1e3 * batch / ms:.2f}" if stage == "whole" else ""
        best = f"{each['best_ms']:.1f}"
        printed.add_row(str(batch), stage, f"{ms:.1f}", best, floor, ratio, rate)
    return printed


def main() -> None:
    """Measure, print, save."""
    given = parse()
    result = measure(given)
    Console().print(table(result))
    if given.agreement:
        found = result["batch_against_single"]
        Console().print(f"a batch of two against single answers: {found:.1e} (limit {AGREEMENT})")
    depth = "" if given.depth is None else f"-depth{given.depth}"
    device = "cpu" if result["device"] == "cpu" else "cuda"
    name = given.name or f"{given.model}-{device}-{result['dtype']}{depth}"
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"model-{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    if given.batches:
        draw(result, path.with_suffix(".png"))
    Console().print(f"saved as {path}")


if __name__ == "__main__":
    run_command(main)
