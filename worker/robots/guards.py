"""Holds each chunk of actions against what its robot may do, and clips or refuses what breaks it.

The rules are `env.guards`, in the robot's own convention, and are looked at in this order:

| rule | an action breaks it | and is |
|---|---|---|
| dimension | that has not `env.action_dim` numbers | refused |
| finite | of NaN or infinity | refused |
| limit | below `min` or above `max` | as `on_breach` says |
| first | of a chunk, further than `max_first_change` from the observation's state | the same |
| rate | further than `max_change` from the action before it | the same |

Clipping goes through a chunk from its beginning, so that each action is held against what the robot
will have been told before it. A chunk that keeps to all rules is given back as it is, bit for bit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from client.errors import BadObservation, GuardBreached
from client.wire import MAX_STAGES, MOST_BREACHES
from worker.config import EnvConfig
from worker.errors import SettingsError
from worker.guard_config import LONGEST_NAME, OnBreach
from worker.robots import find_robot
from worker.robots.observations import Array, Vector, key_name

_NAMED = 6  # rules in an error's message
_SLACK = 1e-9  # relative: what a limit's own rounding may add

CLIPPED = "clipped_actions"
"""The key of a result that tells its robot of clipped actions."""

Breaches = dict[str, int]
"""How many actions broke a rule, by joint and rule: `{"left_waist/rate": 3}`."""


class Guards:
    """The rules of one env; nothing of a chunk or an observation is kept."""

    def __init__(self, env: EnvConfig) -> None:
        """Read the rules.

        Raises:
            SettingsError: they are none, or the robot has no state that they could refer to.
        """
        rules, dims = env.guards, env.action_dim
        rules.check(dims)
        self._robot = find_robot(env.robot)
        self._names = rules.names(dims)
        self._refuses = rules.on_breach is OnBreach.refuse
        self._low = np.array(rules.limits("min", dims, -np.inf))
        self._high = np.array(rules.limits("max", dims, np.inf))
        self._change = _with_slack(rules.limits("max_change", dims, np.inf))
        first = _with_slack(rules.limits("max_first_change", dims, np.inf))
        self._anchored = np.flatnonzero(np.isfinite(first))  # joints that begin at the state
        self._first = first[self._anchored]
        self._has_rates = bool(np.isfinite(self._change).any())
        if self._anchored.size and self._anchored[-1] >= self._robot.state_dim:
            raise SettingsError(
                f"env.guards.max_first_change has a number for {self._names[self._anchored[-1]]},"
                f" but the state of env.robot={env.robot} has only {self._robot.state_dim} numbers:"
                " give null where an action is no position that the state has at the same place"
            )

    def judge(self, result: dict[str, Any], observation: Mapping[str, Any]) -> dict[str, Any]:
        """A policy's result, or where its actions break rules, one with the clipped actions.

        That one has `clipped_actions` too: how many of them were changed, by joint and rule.

        Raises:
            GuardBreached: the actions are refused.
            BadObservation: a rule needs the robot's state, and it is not there.
        """
        given = result["actions"]
        if given.ndim != 2 or given.shape[1] != len(self._names) or given.dtype.kind not in "fiu":
            raise GuardBreached(
                f"the policy answered actions of shape {given.shape} and type {given.dtype}, and"
                f" (horizon, {len(self._names)}) numbers are expected (env.action_dim)",
                {"chunk/dimension": 1},
            )
        if not np.isfinite(given).all():
            raise self._refusal(self._count(~np.isfinite(given), "finite"), len(given))
        actions: Array = np.asarray(given, np.float64)
        kept, breaches = self._clipped(actions, observation)
        if not breaches:
            return result
        if self._refuses:
            raise self._refusal(breaches, len(given))
        told = kept.astype(given.dtype if given.dtype.kind == "f" else np.float64)
        return {**result, "actions": told, CLIPPED: breaches}

    def _clipped(self, actions: Array, observation: Mapping[str, Any]) -> tuple[Array, Breaches]:
        breaches: Breaches = {}
        kept = np.minimum(np.maximum(actions, self._low), self._high)
        outside = kept != actions
        if outside.any():
            breaches.update(self._count(outside, "limit"))
        if self._anchored.size and len(kept):
            breaches.update(self._hold_first(kept, observation))
        if self._has_rates and len(kept) > 1:
            breaches.update(self._hold_back(kept))
        return kept, breaches

    def _hold_first(self, kept: Array, observation: Mapping[str, Any]) -> Breaches:
        """Bring the first action, in place, as near to the state as it must be."""
        joints = self._anchored
        state = _state(observation, self._robot.vectors)[joints]
        first = kept[0, joints]
        near = np.minimum(np.maximum(first, state - self._first), state + self._first)
        # A state outside of the limits must not lead an action out of them.
        near = np.minimum(np.maximum(near, self._low[joints]), self._high[joints])
        moved = np.zeros((1, len(self._names)), bool)
        moved[0, joints] = near != first
        kept[0, joints] = near
        return self._count(moved, "first") if moved.any() else {}

    def _hold_back(self, kept: Array) -> Breaches:
        """Slow down, in place, the joints that move too fast; the others need no second look."""
        too_fast = (np.abs(kept[1:] - kept[:-1]) > self._change).any(axis=0)
        breaches: Breaches = {}
        for joint in np.flatnonzero(too_fast):
            # Each depends on the one before it; plain numbers are faster here than arrays.
            change, column = float(self._change[joint]), kept[:, joint].tolist()
            before, count = column[0], 0
            for row, wanted in enumerate(column):
                before = min(max(wanted, before - change), before + change)
                count += before != wanted
                column[row] = before
            kept[:, joint] = column
            breaches[f"{self._names[joint]}/rate"] = count
        return breaches

    def _count(self, broken: npt.NDArray[np.bool_], rule: str) -> Breaches:
        counts = broken.sum(axis=0)
        return {f"{self._names[j]}/{rule}": int(counts[j]) for j in np.flatnonzero(counts)}

    def _refusal(self, breaches: Breaches, horizon: int) -> GuardBreached:
        named = [f"{rule} ({count})" for rule, count in list(breaches.items())[:_NAMED]]
        more = ", ..." if len(breaches) > _NAMED else ""
        return GuardBreached(
            f"the policy's chunk of {horizon} actions was refused, as actions of it break rules of"
            f" this robot's guards: {', '.join(named)}{more}. Hold still and ask again with a new"
            " observation; the rules are env.guards of the worker",
            breaches,
        )


def guards_of(env: EnvConfig) -> Guards | None:
    """The env's guards; None where they are off.

    Raises:
        SettingsError: the rules cannot be held against this robot's actions.
    """
    return None if env.guards.on_breach is None else Guards(env)


def header_fields(told: Any) -> dict[str, Breaches]:
    """What an answer's header tells the broker: at most so many rules as it may name.

    A policy of somebody's own may have given its result a key like ours: that is told to nobody.
    """
    if not told or not isinstance(told, dict) or not all(map(_is_ours, told.items())):
        return {}
    often = sorted(told.items(), key=lambda each: -each[1])[:MAX_STAGES]
    return {"breaches": {rule: min(count, MOST_BREACHES) for rule, count in often}}


def _state(observation: Mapping[str, Any], vectors: Sequence[Vector]) -> Array:
    """The robot's state as it was sent, in its own convention."""
    parts = []
    for vector in vectors:
        found: Any = observation
        for key in vector.path:
            found = found.get(key) if isinstance(found, Mapping) else None
        if found is None:
            raise BadObservation(
                f"{key_name(vector.path)}: missing, and env.guards.max_first_change needs it"
            )
        parts.append(vector.parse(found))
    return np.concatenate(parts)


def _is_ours(each: tuple[Any, Any]) -> bool:
    rule, count = each
    is_rule = isinstance(rule, str) and len(rule) <= LONGEST_NAME + len("/dimension")
    return is_rule and type(count) is int and count > 0


def _with_slack(limits: list[float]) -> Array:
    return np.array(limits) * (1.0 + _SLACK)
