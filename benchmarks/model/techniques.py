"""What each technique of the model's runtime gains on this machine, with the rest as it is.

`python -m benchmarks.model.techniques` switches them off one at a time, at real widths and with few
layers, and takes turns with and without. `--only compile` measures torch.compile, in minutes.
Writes `results/techniques-NAME.json`.
"""

from __future__ import annotations

from conf.flags import Flags, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from worker.runtime.threads import ENVIRONMENT, set_threads

# As a worker does, and before torch is imported.
os.environ.update(ENVIRONMENT | os.environ)

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.model.gains import CPU, STEPS, Bench, Run, made_up, on_cpu
from benchmarks.neighbours import Neighbours
from worker.models import gemma
from worker.models.attention import expanded, explicit, folded
from worker.models.gemma import Block, Cache
from worker.models.pi0 import FlowStep, Pi0
from worker.runtime import fusing
from worker.runtime.fusing import fuse
from worker.runtime.layout import compile_layers
from worker.runtime.packing import pack
from worker.runtime.runner import buckets

RESULTS = Path(__file__).parents[1] / "results"
DEPTH = 18
"""Layers of the real Gemmas."""
PROMPT = 10
"""Tokens of a short instruction; the longest are 48."""


def what_is_asked(bench: Bench) -> None:
    """Less to compute: what is absent, and what no step changes."""
    best, state = bench.best, bench.state
    masked = torch.tensor([PROMPT])
    short = bench.tokens[:, :PROMPT]
    bench.compare(
        "absent camera and prompt padding dropped (2 cameras of 3, 10 tokens of 48)",
        "vision + prefix",
        lambda: best.prefix(bench.images[:, :2], short, state),
        lambda: best.prefix(bench.images, bench.tokens, state, masked),
    )
    padded = F.pad(short, (0, buckets(48, 4)[0] - PROMPT))
    bench.compare(
        "prompt of its own length instead of the next bucket's (10 tokens, 12)",
        "vision + prefix",
        lambda: best.prefix(bench.images, short, state),
        lambda: best.prefix(bench.images, padded, state, masked),
    )
    bench.compare(
        "cameras in one ViT batch",
        "vision",
        bench.vision(best),
        lambda: [best.vision(image[None]) for image in bench.images[0]],
    )
    past = best.vlm.extend(bench.embedded)
    token = best.embed_state(state)
    bench.compare(
        "state token's keys and values with the prefix",
        "denoising",
        bench.denoising(best),
        lambda: state_in_every_step(best, past, token, bench.noise, bench.steps),
    )
    last_layer(bench)


def state_in_every_step(
    model: Pi0, past: Cache, state: Tensor, noise: Tensor, steps: list[FlowStep]
) -> Tensor:
    """The state token as the first of the suffix (its mask, which costs nothing, left out)."""
    actions = noise
    for step in steps:
        tokens = torch.cat([state, model.embed_actions(actions, step)], dim=1)
        out = model.action_out_proj(model.expert(tokens, past, None)[:, 1:])
        actions = torch.sub(actions, out, alpha=1.0 / len(steps))
    return actions


def last_layer(bench: Bench) -> None:
    """From single layers: of 18, the last one only projects keys and values."""
    whole, last = bench.best.vlm.blocks[0], bench.best.vlm.blocks[-1]
    rope = gemma.rope_tables(0, bench.embedded.shape[1], bench.best.config.vlm.head_dim, CPU)

    def layer(block: Block) -> None:
        block(bench.embedded, *block.project(bench.embedded, rope))

    bench.compare(
        "last prefix layer: keys and values only (from one layer, for 18)",
        "prefix",
        lambda: last.keys_values(bench.embedded, rope),
        lambda: layer(whole),
    )
    one = bench.gains.pop()
    bench.gains.append(one.after((DEPTH - 1) * one.without_best_ms))


def forms_of_weights(bench: Bench) -> None:
    """The same arithmetic with weights in other forms."""
    stages = {"vision": bench.vision, "prefix": bench.prefix, "denoising": bench.denoising}
    stacked = bench.form(fuse, pack)
    name = "QKV and gate-up of the prefix as several products"
    bench.compare(name, "prefix", bench.prefix(bench.best), bench.prefix(stacked))
    del stacked
    apart = without({"FusedAttention": kept, "FusedMlp": kept}, bench)
    name = "QKV and gate-up of the expert as one product each"
    bench.compare(name, "denoising", bench.denoising(bench.best), bench.denoising(apart))
    del apart
    unfolded = without({"fold": lambda *_: None}, bench)
    for stage in ("prefix", "denoising"):
        run = stages[stage]
        bench.compare("norms folded into weights", stage, run(bench.best), run(unfolded))
    del unfolded
    unpacked = bench.form(on_cpu)
    for stage, run in stages.items():
        bench.compare("packed weights", stage, run(bench.best), run(unpacked))


def without(replaced: dict[str, Any], bench: Bench) -> Pi0:
    """A model that was fused with other pieces of `worker.runtime.fusing`."""
    with ExitStack() as stack:
        for attribute, value in replaced.items():
            stack.enter_context(patch.object(fusing, attribute, value))
        return bench.form(on_cpu, pack)


def kept(plain: Any) -> Any:
    """What stands in for a fused module."""
    return plain


def forms_of_attention(bench: Bench) -> None:
    """Heads expanded, which float32 takes on a CPU, against the other two."""
    for stage, run in (("prefix", bench.prefix), ("denoising", bench.denoising)):
        for other in (folded, explicit):
            name = f"attention {expanded.__name__}, not {other.__name__}"
            bench.compare(name, stage, run(bench.best), attending(other, run(bench.best)))


def attending(form: Callable[..., Tensor], run: Run) -> Run:
    """`run` with another form of attention."""

    def changed() -> None:
        with patch.object(gemma, "attend", form):
            run()

    return changed


def tables(bench: Bench) -> None:
    """What depends on time alone, computed once at load instead of at each inference."""
    models = {"pi0": (bench.best, bench.cache), "pi05": adaptive(bench)}
    for name, (model, cache) in models.items():
        with_ = partial(model.sample, cache, bench.noise, model.flow_steps(STEPS))
        without = partial(untabled, model, cache, bench.noise)
        bench.compare(f"tables per step ({name})", "denoising", with_, without)


def untabled(model: Pi0, cache: Cache, noise: Tensor) -> Tensor:
    """A flow that computes at every step what depends on its time."""
    return model.sample(cache, noise, model.flow_steps(STEPS))


def adaptive(bench: Bench) -> tuple[Pi0, Cache]:
    """A pi0.5 as it runs, and a prefix."""
    model = made_up("pi05", bench.depth)
    on_cpu(model)
    pack(model)
    return model, model.prefix(bench.images, bench.tokens, bench.state)


def compiled(bench: Bench) -> None:
    """torch.compile over fused layers, against packed ones; compiling is not counted."""
    model = bench.form(fuse, compile_layers)
    stages = {"vision": bench.vision, "prefix": bench.prefix, "denoising": bench.denoising}
    for stage, run in stages.items():
        bench.compare("packed weights, not torch.compile", stage, run(bench.best), run(model))


def logits(bench: Bench) -> None:
    """pi0-FAST's head for a batch: the embedding read once, not once for each row."""
    embedding = torch.randn((257152, 2048), generator=torch.Generator().manual_seed(0))
    for batch in (1, 4):
        x = torch.randn((batch, 2048), generator=torch.Generator().manual_seed(1))
        name = f"head as embedding @ outputs.T, batch {batch}"
        forms = partial(once, x, embedding), partial(by_row, x, embedding)
        bench.compare(name, "FAST token, head alone", *forms)


def once(x: Tensor, embedding: Tensor) -> object:
    """The likeliest tokens as the model finds them."""
    return (embedding @ x.T).max(dim=0)


def by_row(x: Tensor, embedding: Tensor) -> object:
    """The same as a linear layer."""
    return F.linear(x, embedding).max(dim=-1)


GROUPS: dict[str, Callable[[Bench], None]] = {
    "asked": what_is_asked,
    "weights": forms_of_weights,
    "attention": forms_of_attention,
    "tables": tables,
    "head": logits,
    "compile": compiled,
}


@torch.no_grad()
def measure(groups: list[str], depth: int, times: int, threads: int | None) -> dict[str, Any]:
    """All gains, as plain data."""
    set_threads(threads, embedded=False)
    neighbours, own = Neighbours(), time.process_time()
    bench = Bench(depth, times)
    for group in groups:
        GROUPS[group](bench)
    return {
        **describe(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "depth": depth,
        "times": times,
        "others_cores": round(neighbours.cores(time.process_time() - own), 2),
        "gains": [
            {**asdict(each), "ratio": each.ratio, "best_ratio": each.best_ratio}
            for each in bench.gains
        ],
    }


def table(result: dict[str, Any]) -> Table:
    """The gains for people."""
    printed = Table("technique", "stage", "with, ms", "without, ms", "ratio", "of the fastest")
    for cells in _cells(result):
        printed.add_row(*cells)
    return printed


def _cells(result: dict[str, Any]) -> Iterator[list[str]]:
    for each in result["gains"]:
        numbers = [f"{each[key]:.1f}" for key in ("with_ms", "without_ms")]
        numbers += [f"{each[key]:.2f}" for key in ("ratio", "best_ratio")]
        yield [each["technique"], each["stage"], *numbers]


def main() -> None:
    """Measure, print, save."""
    parser = Flags("python -m benchmarks.model.techniques", __doc__)
    parser.add_argument("--depth", type=int, default=2, help="layers of each transformer")
    parser.add_argument("--times", type=int, default=3, help="turns of which the median counts")
    parser.add_argument("--threads", type=int, help="of torch; default: all cores")
    groups = [group for group in GROUPS if group != "compile"]
    parser.add_argument("--only", nargs="+", choices=list(GROUPS), default=groups)
    parser.add_argument("--name", default="cpu-float32", help="of the results")
    given = parser.read()
    result = measure(given.only, given.depth, given.times, given.threads)
    Console(width=130).print(table(result))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"techniques-{given.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    Console().print(f"saved as {path}")


if __name__ == "__main__":
    run_command(main)
