"""How fast pi0 and pi0.5 are, stage by stage, against what the same machine could do.

`python -m benchmarks.model` measures the full pi0 with made-up weights; `--depth 2 --quick` gives
an impression within a minute. Writes `results/model-NAME.json` and a picture beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.machine import describe
from benchmarks.model_floor import Clock, Load, copy_rate, count, gemm_rate, times_s
from benchmarks.model_plot import draw
from conf.compose import compose
from worker.__main__ import build
from worker.config import Device, Dtype, WorkerConfig
from worker.models.devices import choose_device, choose_dtype
from worker.models.runner import Runner
from worker.policies.pi0 import Pi0Policy
from worker.robots.robot import CAMERAS
from worker.threads import set_threads
from worker.transforms import ModelInput

RESULTS = Path(__file__).parent / "results"
CAMERA_SIZE = (480, 640)


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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pi0", choices=["pi0", "pi05", "tiny"])
    parser.add_argument("--device", default="auto", choices=list(Device))
    parser.add_argument("--dtype", default="auto", choices=list(Dtype))
    parser.add_argument("--depth", type=int, help="layers at most; default: all")
    parser.add_argument("--cameras", type=int, default=3, choices=[1, 2, 3])
    parser.add_argument("--prompt", type=int, default=48, help="tokens")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--times", type=int, default=5, help="runs of which the median counts")
    parser.add_argument("--threads", type=int, help="of torch, on a CPU; default: all cores")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the process's CPU seconds: with --threads 1, on a machine that is busy",
    )
    parser.add_argument("--compile", action="store_true", help="let torch compile the layers")
    parser.add_argument("--quick", action="store_true", help="one run, batches 1 and 2")
    parser.add_argument("--name", help="of the results; default: model, device and depth")
    given = parser.parse_args(arguments)
    if given.quick:
        given.batches, given.times = [1, 2], 1
    return given


def composed(given: argparse.Namespace) -> WorkerConfig:
    """The worker's settings with the depth cut."""
    config = compose("worker", WorkerConfig, ["env=aloha", f"model={given.model}"])
    config.runtime.compile = given.compile
    config.runtime.slots = max(given.batches)
    if given.depth is not None:
        for part in (config.model.vision, config.model.vlm, config.model.action_expert):
            part.depth = min(part.depth, given.depth)
    return config


def transforms_s(times: int, clock: Clock) -> list[float]:
    """Seconds of all that happens to one observation and its answer before and after the model."""
    policy = build(compose("worker", WorkerConfig, ["env=aloha", "model=tiny"]))
    if not isinstance(policy, Pi0Policy):
        raise TypeError("model=tiny is served by Pi0Policy")
    numbers = np.random.default_rng(0)
    names = ("cam_high", "cam_left_wrist", "cam_right_wrist")
    images = {n: numbers.integers(0, 256, (3, *CAMERA_SIZE), dtype=np.uint8) for n in names}
    sent = {"state": np.zeros(14), "images": images, "prompt": "fold the towel"}
    raw = numbers.standard_normal((50, 32), dtype=np.float32)

    def run() -> None:
        policy.transforms.outputs(raw, policy.transforms.inputs(sent))

    return times_s(run, torch.device("cpu"), times, clock)


def requests(config: WorkerConfig, load: Load) -> list[ModelInput]:
    """A batch of them, made up."""
    numbers = np.random.default_rng(0)
    return [
        ModelInput(
            images={
                camera: numbers.integers(0, 256, (224, 224, 3), dtype=np.uint8)
                for camera in CAMERAS[: load.cameras]
            },
            tokens=numbers.integers(2, config.model.vocab_size, load.prompt),
            state=numbers.standard_normal(config.model.action_dim),
            robot_state=np.zeros(14),
            noise=None,
            seed=index,
        )
        for index in range(load.batch)
    ]


def stages(runner: Runner, given: list[ModelInput], steps: int) -> dict[str, Callable[[], Any]]:
    """What is timed; the last is all of it together, as a worker runs it."""
    model = runner.model
    arrays = runner.tensors(given)
    images, tokens, state, noise = (arrays[k] for k in ("images", "tokens", "state", "noise"))
    with torch.no_grad():
        embedded = model.embed_prefix(images, tokens)
        cache = model.prefix(images, tokens, state)
        table = model.flow_steps(steps)

    def prefix() -> None:
        past = model.vlm.extend(embedded)
        if not model.pi05:
            model.expert.extend(model.embed_state(state).to(model.dtype), past)

    return {
        "vision": lambda: model.vision(images.flatten(0, 1)),
        "prefix": prefix,
        "denoising": lambda: model.sample(cache, noise, table),
        "whole": lambda: runner(given),
    }


def row(batch: int, stage: str, seconds: list[float], floor_ms: float | None) -> Row:
    """What several runs come to."""
    return Row(batch, stage, 1e3 * statistics.median(seconds), 1e3 * min(seconds), floor_ms)


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All rows, with the machine's rates, as plain data."""
    config = composed(given)
    clock = time.process_time if given.cpu_time else time.perf_counter
    set_threads(given.threads, embedded=False)
    device = choose_device(Device(given.device))
    dtype = choose_dtype(Dtype(given.dtype), device)
    before, bandwidth = gemm_rate(device, dtype, clock), copy_rate(device, clock)
    steps = config.num_steps
    runner = Runner(
        config.model, None, Device(given.device), Dtype(given.dtype), config.runtime, steps, 0
    )
    rows = [row(1, "transforms", transforms_s(given.times, clock), None)]
    timed: list[tuple[int, str, list[float]]] = []
    for batch in track(given.batches, description="batches"):
        load = Load(batch, given.cameras, given.prompt, steps)
        runner.prepare(batch, [given.cameras], given.prompt)
        for stage, run in stages(runner, requests(config, load), steps).items():
            timed.append((batch, stage, times_s(run, device, given.times, clock)))
    # Measured again: on a busy machine the better of the two is nearer to what it can do.
    after = gemm_rate(device, dtype, clock)
    for batch, stage, seconds in timed:
        work = count(config.model, Load(batch, given.cameras, given.prompt, steps))
        floors = {
            name: each.floor_ms(max(before, after), bandwidth, runner.dtype.itemsize)
            for name, each in work.items()
        }
        floors["whole"] = sum(floors.values())
        rows.append(row(batch, stage, seconds, floors[stage]))
    return {
        **describe(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "settings": vars(given),
        "dtype": str(runner.dtype).removeprefix("torch."),
        "gemm_tflops": [round(rate / 1e12, 4) for rate in (before, after)],
        "copy_gb_per_s": round(bandwidth / 1e9, 1),
        "rows": [{**asdict(each), "ratio": each.ratio} for each in rows],
    }


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
        f" after, copy {result['copy_gb_per_s']} GB/s (read and written)",
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
    depth = "" if given.depth is None else f"-depth{given.depth}"
    device = "cpu" if result["device"] == "cpu" else "cuda"
    name = given.name or f"{given.model}-{device}-{result['dtype']}{depth}"
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"model-{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    draw(result, path.with_suffix(".png"))
    Console().print(f"saved as {path} and {path.with_suffix('.png').name}")


if __name__ == "__main__":
    main()
