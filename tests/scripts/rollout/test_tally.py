"""Counts of a broker go on over its restarts."""

from __future__ import annotations

import numpy as np

from scripts.rollout.shadow import Sum
from scripts.rollout.tally import Tally


def test_counts_begin_with_the_first_look_and_go_on_in_the_next_life() -> None:
    tally = Tally()
    assert tally.take(7, {"answered": 100}) == {"answered": 0}
    assert tally.take(7, {"answered": 130, "failed": 2}) == {"answered": 30, "failed": 2}
    assert tally.take(8, {"answered": 5}) == {"answered": 35, "failed": 2}
    assert tally.take(8, {"answered": 6, "moved": 1}) == {"answered": 36, "failed": 2, "moved": 1}


def test_differences_are_the_largest_of_all_answers() -> None:
    result = Sum()
    old = np.zeros((2, 2), np.float32)
    result.add({"actions": old, "other": 1}, {"actions": old.copy(), "other": 2}, (1.0, 2.0))
    assert (result.compared().largest, result.compared().mean) == (0.0, 0.0)
    new = np.array([[0.0, 0.0], [0.0, 2.0]], np.float32)
    result.add({"actions": old}, {"actions": new}, (1.0, 2.0))
    seen = result.compared()
    assert (seen.asked, seen.largest, seen.mean, seen.other) == (2, 2.0, 0.5, "")
    assert (seen.old_p95_ms, seen.new_p95_ms) == (1.0, 2.0)
    result.add({"actions": old}, {"actions": np.full((2, 2), np.nan, np.float32)}, (1.0, 2.0))
    assert result.compared().largest == float("inf")
    result.add({"actions": old}, {"actions": old[:1]}, (1.0, 2.0))
    result.add_failure("policy_failed")
    seen = result.compared()
    assert seen.other == "float32 (1, 2) instead of float32 (2, 2)"
    assert (seen.asked, seen.failed) == (5, {"policy_failed": 1})
