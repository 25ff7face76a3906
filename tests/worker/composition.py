"""Settings and policies, made as `python -m worker` makes them."""

import copy
from functools import cache
from pathlib import Path
from typing import TypeVar

from conf import compose as composing
from worker.__main__ import build
from worker.config import ModelConfig, WorkerConfig
from worker.policies.pi0 import Pi0Policy
from worker.policies.pi0_fast import Pi0FastPolicy

Built = TypeVar("Built", Pi0Policy, Pi0FastPolicy)


def compose_worker(*overrides: str) -> WorkerConfig:
    """`conf/worker.yaml` with command line `overrides`; an object of the caller's own."""
    return copy.deepcopy(_composed(composing.FOLDER, overrides))


@cache
def _composed(folder: Path, overrides: tuple[str, ...]) -> WorkerConfig:
    """Composing takes about 60 ms, and many tests want the same. `folder` is where from."""
    return composing.compose("worker", WorkerConfig, overrides)


def model_config(*overrides: str) -> ModelConfig:
    """The model's part alone."""
    return compose_worker(*overrides).model


def make_policy(*overrides: str) -> Pi0Policy:
    """The policy of these settings, float32 on the CPU, not loaded."""
    return _make(Pi0Policy, overrides)


def make_fast_policy(*overrides: str) -> Pi0FastPolicy:
    """As `make_policy`, of a `model=pi0_fast`."""
    return _make(Pi0FastPolicy, overrides)


def _make(kind: type[Built], overrides: tuple[str, ...]) -> Built:
    policy = build(compose_worker(*overrides, "device=cpu", "dtype=float32"))
    if not isinstance(policy, kind):
        raise TypeError(f"policy= gave a {type(policy).__name__}")
    return policy
