"""What a worker can serve: any class with `infer(observation: dict) -> dict`."""

from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from worker.errors import ConfigError, WorkerError


def build(policy: DictConfig) -> Any:
    """The object that `policy._target_` names, made with the other keys of `policy`.

    Raises the policy's own `WorkerError`, and `ConfigError` where the class is not found or can't
    be made, instead of Hydra's wrapping.
    """
    try:
        return instantiate(policy)
    except InstantiationException as error:
        if isinstance(error.__cause__, WorkerError):
            raise error.__cause__ from None
        reason = " ".join(str(error).split())
        raise ConfigError(f"policy._target_={policy.get('_target_')}: {reason}") from error
