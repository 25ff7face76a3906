"""The worker's settings, composed and checked as its process does it."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import conf
from worker.config import WorkerConfig
from worker.policies import build
from worker.policies.pi0 import Pi0Policy


def compose_worker(*overrides: str) -> DictConfig:
    """`conf/worker.yaml` with command line `overrides`, merged into its schema."""
    folder = str(Path(conf.__file__).parent)
    with initialize_config_dir(folder, version_base="1.3"):
        composed = compose("worker", overrides=list(overrides))
    merged = OmegaConf.merge(OmegaConf.structured(WorkerConfig), composed)
    if not isinstance(merged, DictConfig):
        raise TypeError("the settings are no mapping")
    return merged


def make_policy(*overrides: str) -> Pi0Policy:
    """The policy of these settings, float32 on the CPU, not loaded."""
    settings = compose_worker(*overrides, "device=cpu", "dtype=float32")
    policy: Pi0Policy = build(settings.policy)
    return policy
