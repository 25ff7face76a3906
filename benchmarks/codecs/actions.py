"""How much a codec changes the actions of the golden checkpoints and of the embedded model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.codecs import CODECS, with_images
from client.errors import PolicyFailed
from conf.compose import compose
from tests.golden import CHECKPOINTS, FAST_CHECKPOINT, FLOW_CHECKPOINTS, cases, overrides
from worker.__main__ import build
from worker.config import WorkerConfig

TINY = "tiny"
MODELS = (*CHECKPOINTS, TINY)
BLACK = "black images"
_CPU = ("device=cpu", "dtype=float32")


@dataclass(frozen=True)
class Change:
    """What one codec does to one model's actions, over its observations.

    Both numbers are root mean squares over all actions, each in units of its own dimension's
    standard deviation over the observations. `exact`: how many observations of `observations`
    give the same actions to the bit.
    """

    model: str
    codec: str
    mean: float
    largest: float
    exact: int
    observations: int


def changes(model: str) -> Iterator[Change]:
    """One row for each codec, and one for black images: what not seeing at all would do.

    The last is left out for a model that answers black images with an error, as pi0-FAST may.
    """
    settings = ["env=aloha_sim", "model=tiny"] if model == TINY else overrides(model)
    policy: Any = build(compose("worker", WorkerConfig, [*settings, *_CPU]))
    policy.load()
    sent = _observations(model)
    plain = [policy.infer(one)["actions"] for one in sent]
    spread = np.concatenate(plain).std(axis=0)
    for codec in CODECS:
        seen = [policy.infer(with_images(one, codec.through))["actions"] for one in sent]
        yield _change(model, codec.name, plain, seen, spread)
    try:
        seen = [policy.infer(with_images(one, np.zeros_like))["actions"] for one in sent]
    except PolicyFailed:
        return
    yield _change(model, BLACK, plain, seen, spread)


def _observations(model: str) -> list[dict[str, Any]]:
    """The golden ones, with their noise; for the embedded model, those of its own robot."""
    golden = cases("pi0_aloha_sim" if model == TINY else model)
    if model in FLOW_CHECKPOINTS:
        return [{**case.observation, "noise": case.noise} for case in golden]
    if model == FAST_CHECKPOINT:
        return [case.observation for case in golden]
    return [{**case.observation, "seed": 0} for case in golden]


def _change(
    model: str,
    codec: str,
    plain: Sequence[npt.NDArray[np.float64]],
    seen: Sequence[npt.NDArray[np.float64]],
    spread: npt.NDArray[np.float64],
) -> Change:
    scale = np.where(spread > 0.0, spread, 1.0)
    each = [
        float(np.sqrt((((a - b) / scale) ** 2).mean())) for a, b in zip(plain, seen, strict=True)
    ]
    exact = sum(np.array_equal(a, b) for a, b in zip(plain, seen, strict=True))
    return Change(model, codec, float(np.mean(each)), max(each), exact, len(each))
