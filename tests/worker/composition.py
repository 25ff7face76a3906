"""Settings and policies, made as `python -m worker` makes them."""

from conf.compose import compose
from worker.__main__ import build
from worker.config import ModelConfig, WorkerConfig
from worker.policies.pi0 import Pi0Policy


def compose_worker(*overrides: str) -> WorkerConfig:
    """`conf/worker.yaml` with command line `overrides`."""
    return compose("worker", WorkerConfig, overrides)


def model_config(*overrides: str) -> ModelConfig:
    """The model's part alone."""
    return compose_worker(*overrides).model


def make_policy(*overrides: str) -> Pi0Policy:
    """The policy of these settings, float32 on the CPU, not loaded."""
    policy = build(compose_worker(*overrides, "device=cpu", "dtype=float32"))
    if not isinstance(policy, Pi0Policy):
        raise TypeError(f"policy= gave a {type(policy).__name__}")
    return policy
