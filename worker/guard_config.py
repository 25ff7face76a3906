"""What actions must keep to (`env.guards`): the types, and the checks that types cannot make."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from worker.errors import SettingsError

LONGEST_NAME = 40
"""Characters of a joint's name: 32 of them, with their rules, go into one header."""


class OnBreach(StrEnum):
    """What becomes of actions that break a rule; those that are no numbers are always refused."""

    clip = "clip"
    refuse = "refuse"


@dataclass
class GuardsConfig:
    """Each rule is a number for all joints, or a list of one for each, where null is no rule."""

    on_breach: OnBreach | None = None
    joints: list[str] | None = None
    min: Any = None
    max: Any = None
    max_change: Any = None
    max_first_change: Any = None

    def check(self, action_dim: int) -> None:
        """Refuse what no chunk could be held against.

        Raises:
            SettingsError: the message names the key, and the joint.
        """
        names = self.names(action_dim)
        low = self.limits("min", action_dim, -math.inf)
        high = self.limits("max", action_dim, math.inf)
        for name, least, most in zip(names, low, high, strict=True):
            if least > most:
                raise SettingsError(
                    f"env.guards.min is {least:g} for {name}, above env.guards.max, {most:g}"
                )
        for key in ("max_change", "max_first_change"):
            for name, most in zip(names, self.limits(key, action_dim, math.inf), strict=True):
                if most <= 0.0:
                    raise SettingsError(
                        f"env.guards.{key} is {most:g} for {name}: a number above 0 is expected,"
                        " as the robot could never move; null is no rule"
                    )

    def names(self, action_dim: int) -> list[str]:
        """What the joints are called in errors, on the page and in metrics.

        Raises:
            SettingsError: the names are not as many as the actions' numbers, or not apart.
        """
        if self.joints is None:
            return [f"action_{number}" for number in range(action_dim)]
        if len(self.joints) != action_dim:
            raise SettingsError(
                f"env.guards.joints has {len(self.joints)} names, and an action has {action_dim}"
                " numbers (env.action_dim)"
            )
        for name in self.joints:
            if not 0 < len(name) <= LONGEST_NAME or self.joints.count(name) > 1:
                raise SettingsError(
                    f"env.guards.joints: {name[: 2 * LONGEST_NAME]!r}: names of 1 to"
                    f" {LONGEST_NAME} characters are expected, each only once"
                )
        return list(self.joints)

    def limits(self, key: str, action_dim: int, none: float) -> list[float]:
        """A rule's number for each joint, `none` where it has none.

        Raises:
            SettingsError: it is something else than numbers, or not one for each joint.
        """
        value = getattr(self, key)
        values = value if isinstance(value, list) else [value] * action_dim
        if len(values) != action_dim:
            raise SettingsError(
                f"env.guards.{key} has {len(values)} entries, and an action has {action_dim}"
                " numbers (env.action_dim): give one number for all, or one for each"
            )
        for number in values:
            is_number = type(number) in (int, float) and math.isfinite(number)
            if number is not None and not is_number:
                raise SettingsError(
                    f"env.guards.{key} is {value!r}: finite numbers are expected, or null where"
                    " there is no rule"
                )
        return [none if number is None else float(number) for number in values]
