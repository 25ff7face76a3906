"""How far two answers differ: not at all, bit for bit, or by how much and where."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from client.wire import show

_TIMINGS = "timing"  # the end of the names of maps that tell how long something took
# For differences, by kind of dtype: what holds every value of it, or (of 64-bit integers) nearly.
_WIDE: dict[str, type[Any]] = {
    **dict.fromkeys("biuf", np.longdouble),
    "c": np.complex128,
}


@dataclass
class Difference:
    """Between two answers, or between many.

    Attributes:
        largest: by output key, the largest absolute difference of numbers. 0 is a difference too:
            of a sign of zero, or between bits of NaN. Infinite where one is NaN and the other not.
        others: by output key, what differs and is no number: a shape, a text, a missing key.
    """

    largest: dict[str, float] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)

    @property
    def is_none(self) -> bool:
        """Equal bit for bit."""
        return not self.largest and not self.others

    def is_within(self, tolerance: float) -> bool:
        """Equal, or different by so much at most."""
        return not self.others and all(most <= tolerance for most in self.largest.values())

    def add(self, other: Difference) -> None:
        """Take in another one: of each key the largest remains."""
        for key, most in other.largest.items():
            self.largest[key] = max(most, self.largest.get(key, 0.0))
        self.others.update(other.others)

    def __str__(self) -> str:
        if self.is_none:
            return "equal bit for bit"
        parts = [f"{key} differs by up to {most:.3g}" for key, most in self.largest.items()]
        return ", ".join([*parts, *(f"{key}: {what}" for key, what in self.others.items())])


def compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> Difference:
    """What `now` has otherwise than `before`; how long anything took does not count."""
    difference = Difference()
    old, new = dict(_leaves(before)), dict(_leaves(now))
    for key in {**old, **new}:
        if key not in new:
            difference.others[key] = "is missing now"
        elif key not in old:
            difference.others[key] = "was not there before"
        else:
            _compare(key, old[key], new[key], difference)
    return difference


def _leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        for key, member in tree.items():
            if not (isinstance(member, Mapping) and str(key).endswith(_TIMINGS)):
                yield from _leaves(member, f"{path}.{key}" if path else f"{key}")
    elif isinstance(tree, list):
        for index, member in enumerate(tree):
            yield from _leaves(member, f"{path}[{index}]")
    else:
        yield path, tree


def _compare(key: str, before: Any, now: Any, difference: Difference) -> None:
    if not isinstance(before, np.ndarray | np.generic | float | int):
        if type(before) is not type(now) or before != now:
            difference.others[key] = f"{show(now)} instead of {show(before)}"
        return
    old, new = np.asarray(before), np.asarray(now)
    if old.shape != new.shape or old.dtype != new.dtype:
        difference.others[key] = f"{_form(new)} instead of {_form(old)}"
    elif old.tobytes() != new.tobytes():
        if old.dtype.kind in _WIDE:
            difference.largest[key] = _largest(old, new)
        else:
            difference.others[key] = f"{show(now)} instead of {show(before)}"


def _largest(old: np.ndarray[Any, Any], new: np.ndarray[Any, Any]) -> float:
    wide: np.ndarray[Any, Any] = old.astype(_WIDE[old.dtype.kind])
    other: np.ndarray[Any, Any] = new.astype(_WIDE[old.dtype.kind])
    with np.errstate(invalid="ignore"):
        distance = np.abs(wide - other)
    distance[(wide == other) | (np.isnan(wide) & np.isnan(other))] = 0.0  # infinities among them
    return float(np.nan_to_num(distance, nan=np.inf).max())


def _form(array: np.ndarray[Any, Any]) -> str:
    return f"{array.dtype} {tuple(array.shape)}"
