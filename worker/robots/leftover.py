"""Real-time chunking: checks what is left of a robot's previous chunk, and turns it into guidance.

After "Real-Time Execution of Action Chunking Flow Policies" (arXiv 2506.07339) and "Training-time
action conditioning for efficient real-time chunking" (arXiv 2512.05964). Row 0 of a leftover is
the action that was due when the observation was taken.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from client.errors import BadObservation

Array = npt.NDArray[np.float64]
Choice = TypeVar("Choice", bound=StrEnum)

KEYS = (
    "prev_actions",
    "inference_delay",
    "prefix_attention_horizon",
    "schedule",
    "max_guidance_weight",
    "mode",
)
"""What a robot may send for it."""

LARGEST_GUIDANCE_WEIGHT = 100.0
"""Far above what anyone uses (5 to 10); a flow of n steps overshoots from 2 n on."""
LARGEST_ACTION = 1e6
"""Far beyond any robot, and far within what float32 can take."""


class Mode(StrEnum):
    """How a new chunk is made to continue the previous one."""

    identity = "identity"
    """Each flow step is pulled towards the leftover; needs no gradient."""
    vjp = "vjp"
    """The pull goes through the flow's Jacobian, the paper's form: a backward pass a step."""
    trained = "trained"
    """The first rows are given; for checkpoints that were trained with a clean prefix."""


class Schedule(StrEnum):
    """How the pull fades between the inference delay and the attention horizon."""

    linear = "linear"
    exp = "exp"
    ones = "ones"
    zeros = "zeros"


DEFAULTS = {
    Mode.identity: (Schedule.linear, 10.0),
    Mode.vjp: (Schedule.exp, 5.0),
    Mode.trained: (Schedule.linear, 10.0),
}
"""Schedule and largest weight: LeRobot's, then the paper's; the third form uses neither."""


@dataclass(frozen=True)
class Leftover:
    """What a robot sent: checked, and still in its own space."""

    actions: Array
    """(rows, robot's action dim), 1 to horizon rows."""
    delay: int
    """Rows that the robot will have executed before the new chunk arrives; at most all."""
    attention_horizon: int
    """Rows that pull at all; at most all of them."""
    schedule: Schedule
    max_weight: float
    mode: Mode

    def guidance(self, normalised: Array, shape: tuple[int, int]) -> "Guidance":
        """For a model of `shape` (horizon, action dim).

        `normalised`: the actions after all input transforms, (rows, dims), not yet padded.
        """
        rows, dims = normalised.shape
        previous = np.pad(normalised, ((0, shape[0] - rows), (0, shape[1] - dims)))
        trained = self.mode is Mode.trained
        weights = np.zeros(shape[0])
        if not trained:
            weights = prefix_weights(self.delay, self.attention_horizon, shape[0], self.schedule)
        return Guidance(
            previous=previous.astype(np.float32),
            weights=weights.astype(np.float32),
            max_weight=self.max_weight,
            given=self.delay if trained else 0,
            mode=self.mode,
        )


@dataclass(frozen=True)
class Guidance:
    """What the flow of one request follows."""

    previous: npt.NDArray[np.float32]
    """(horizon, action dim), normalised; zero where nothing is left."""
    weights: npt.NDArray[np.float32]
    """(horizon,), 0 to 1: how much each row is pulled. All 0 with `Mode.trained`."""
    max_weight: float
    given: int
    """How many first rows are taken from `previous` and not computed (`Mode.trained` only)."""
    mode: Mode


def prefix_weights(delay: int, end: int, horizon: int, schedule: Schedule) -> Array:
    """How much each of `horizon` rows is pulled, float64 (horizon,).

    1 before `delay`, which is at most `end`; then falling as `schedule` says; 0 from `end` on.
    Equation 5 of arXiv 2506.07339 and its code's other schedules.
    """
    delay = min(delay, end)
    rows = np.arange(horizon)
    fading = np.clip((end - rows) / (end - delay + 1), 0.0, 1.0)
    if schedule is Schedule.exp:
        fading = fading * np.expm1(fading) / np.expm1(1.0)
    elif schedule is Schedule.ones:
        fading = np.ones(horizon)
    elif schedule is Schedule.zeros:
        fading = np.zeros(horizon)
    weights: Array = np.where(rows < delay, 1.0, np.where(rows < end, fading, 0.0))
    return weights


def parse_leftover(sent: Mapping[str, Any], horizon: int | None, dims: int) -> Leftover | None:
    """Check those of `KEYS` that `sent` has; None if it has none of them.

    `horizon`: the model's; None: it has no flow that could follow a leftover. `dims`: the robot's
    actions.

    Raises:
        BadObservation: a field is wrong, or this policy cannot take them; the message names it.
    """
    given = [key for key in KEYS if sent.get(key) is not None]
    if not given:
        return None
    if horizon is None:
        raise BadObservation(
            f"{given[0]}: this policy has no flow, so it cannot take real-time chunking; let the"
            " client merge chunks by merge='average' or 'ensemble' instead"
        )
    if "prev_actions" not in given:
        raise BadObservation(f"{given[0]}: means nothing without prev_actions")
    actions = _actions(sent["prev_actions"], horizon, dims)
    rows = len(actions)
    mode = _choice(sent, "mode", Mode, Mode.identity)
    schedule, max_weight = DEFAULTS[mode]
    return Leftover(
        actions=actions,
        delay=_whole(sent, "inference_delay", rows, 0, "the rows of prev_actions"),
        attention_horizon=min(
            rows, _whole(sent, "prefix_attention_horizon", horizon, rows, "the model's horizon")
        ),
        schedule=_choice(sent, "schedule", Schedule, schedule),
        max_weight=_weight(sent.get("max_guidance_weight"), max_weight),
        mode=mode,
    )


def _actions(value: Any, horizon: int, dims: int) -> Array:
    expected = f"prev_actions: expected floats of shape (1 to {horizon}, {dims})"
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        raise BadObservation(f"{expected}, got {_came(value)}")
    if value.ndim != 2 or not 1 <= len(value) <= horizon or value.shape[1] != dims:
        raise BadObservation(f"{expected}, got {_came(value)}")
    actions: Array = value.astype(np.float64)
    if not np.isfinite(actions).all():
        raise BadObservation("prev_actions: NaN or infinity in it")
    if np.abs(actions).max() > LARGEST_ACTION:
        raise BadObservation(f"prev_actions: no robot's actions exceed {LARGEST_ACTION:g}")
    return actions


def _whole(sent: Mapping[str, Any], key: str, largest: int, default: int, what: str) -> int:
    value = sent.get(key)
    if value is None:
        return default
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or not 0 <= int(value) <= largest:
        raise BadObservation(
            f"{key}: expected an int from 0 to {largest} ({what}), got {_came(value)}"
        )
    return int(value)


def _choice(sent: Mapping[str, Any], key: str, choices: type[Choice], default: Choice) -> Choice:
    value = sent.get(key)
    if value is None:
        return default
    if not isinstance(value, str) or value not in list(choices):
        raise BadObservation(f"{key}: expected one of {', '.join(choices)}; got {_came(value)}")
    return choices(value)


def _weight(value: Any, default: float) -> float:
    if value is None:
        return default
    is_number = isinstance(value, int | float | np.integer | np.floating)
    # NaN fails the comparison.
    if not is_number or isinstance(value, bool) or not 0 < float(value) <= LARGEST_GUIDANCE_WEIGHT:
        raise BadObservation(
            "max_guidance_weight: expected a number above 0, and at most"
            f" {LARGEST_GUIDANCE_WEIGHT:g}; got {_came(value)}"
        )
    return float(value)


def _came(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} of shape {value.shape}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) < 40 else text[:37] + '...'}"
