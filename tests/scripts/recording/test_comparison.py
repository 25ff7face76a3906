"""What counts as a difference between two answers, and how large it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from scripts.recording.comparison import Difference, compare


def floats(*values: float) -> dict[str, Any]:
    return {"actions": np.array(values, np.float32)}


def test_equal_bits_are_equal_whatever_they_mean() -> None:
    answer = {**floats(1.0, np.nan, -0.0, np.inf), "text": "x", "none": None, "n": 3, "list": [1]}
    difference = compare(answer, {**answer, "actions": answer["actions"].copy()})
    assert difference.is_none
    assert str(difference) == "equal bit for bit"


def test_how_long_it_took_does_not_count() -> None:
    before = {**floats(1.0), "policy_timing": {"infer_ms": 1.0}}
    assert compare(before, {**floats(1.0), "policy_timing": {"infer_ms": 2.0}}).is_none
    assert compare(before, floats(1.0)).is_none


def test_the_largest_difference_of_each_key() -> None:
    before = {**floats(1.0, 2.0, 3.0), "deep": {"n": np.array([1, 250], np.uint8)}}
    now = {**floats(1.0, 2.5, 2.75), "deep": {"n": np.array([4, 5], np.uint8)}}
    difference = compare(before, now)
    assert difference.largest == {"actions": 0.5, "deep.n": 245.0}
    assert not difference.is_none
    assert difference.is_within(245.0)
    assert not difference.is_within(244.0)


@pytest.mark.parametrize(
    ("before", "now", "largest"),
    [
        (0.0, -0.0, 0.0),
        (np.nan, 1.0, np.inf),
        (1.0, np.nan, np.inf),
        (np.inf, np.inf, 0.0),
        (np.inf, -np.inf, np.inf),
        (1.0, np.nextafter(np.float32(1), np.float32(2)), 2.0**-23),
    ],
)
def test_odd_numbers(before: float, now: float, largest: float) -> None:
    assert compare(floats(before, 7.0), floats(now, 7.0)).largest.get("actions", 0.0) == largest


def test_every_bit_counts() -> None:
    assert not compare(floats(0.0), floats(-0.0)).is_none
    quiet, other = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)[:, None]
    difference = compare({"actions": quiet}, {"actions": other})
    assert difference.largest == {"actions": 0.0}


@pytest.mark.parametrize(
    ("before", "now", "words"),
    [
        (floats(1.0, 2.0), floats(1.0), "float32 (1,) instead of float32 (2,)"),
        (floats(1.0), {"actions": np.array([1.0])}, "float64 (1,) instead of float32 (1,)"),
        (floats(1.0), {}, "is missing now"),
        ({}, floats(1.0), "was not there before"),
        ({"a": "x"}, {"a": "y"}, "'y' instead of 'x'"),
        ({"a": b"x"}, {"a": None}, "None instead of b'x'"),
        ({"a": np.array(["x"])}, {"a": np.array(["y"])}, "instead of"),
    ],
)
def test_what_is_no_number(before: dict[str, Any], now: dict[str, Any], words: str) -> None:
    difference = compare(before, now)
    assert words in str(difference)
    assert not difference.is_within(1e9)


def test_many_differences_together() -> None:
    total = Difference()
    for most in (0.5, 2.0, 1.0):
        total.add(Difference({"actions": most}))
    total.add(Difference(others={"text": "is missing now"}))
    assert total.largest == {"actions": 2.0}
    assert total.others == {"text": "is missing now"}
