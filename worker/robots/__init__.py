"""The robots that this worker can serve: some by their name, any other by its module."""

import importlib

from worker.config import RobotName
from worker.errors import SettingsError
from worker.robots.aloha import ALOHA
from worker.robots.droid import DROID
from worker.robots.libero import LIBERO
from worker.robots.robot import RobotSpec

ROBOTS: dict[str, RobotSpec] = {
    RobotName.aloha: ALOHA,
    RobotName.droid: DROID,
    RobotName.libero: LIBERO,
}


def find_robot(name: str) -> RobotSpec:
    """The robot that `env.robot` names: one of `ROBOTS`, or `package.module.NAME`.

    Raises:
        SettingsError: there is none.
    """
    if name in ROBOTS:
        return ROBOTS[name]
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"env.robot={name} cannot be imported: {error}") from error
    if not isinstance(found, RobotSpec):
        raise SettingsError(f"env.robot={name} is a {type(found).__name__}, expected a RobotSpec")
    return found


__all__ = ["ROBOTS", "RobotSpec", "find_robot"]
