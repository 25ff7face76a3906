"""Copies of observations: true copies, in memory that is used again once nobody holds it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from client.snapshot import Snapshots


def observation(value: int, shape: tuple[int, ...] = (4, 6)) -> dict[str, Any]:
    image = np.full(shape, value, np.uint8)
    return {"state": np.full(3, float(value)), "images": {"top": image}, "prompt": "go"}


def place(array: Any) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_copy_is_one() -> None:
    given = observation(7)
    copy = Snapshots().take(given)
    given["images"]["top"][:] = 0
    given["state"][:] = 0
    assert copy["images"]["top"].tolist() == np.full((4, 6), 7).tolist()
    assert copy["state"].tolist() == [7.0] * 3
    assert copy["prompt"] == "go"


def test_memory_that_nobody_holds_is_used_again() -> None:
    snapshots = Snapshots()
    copy = snapshots.take(observation(1))
    places = [place(copy["state"]), place(copy["images"]["top"])]
    del copy
    copy = snapshots.take(observation(2))
    assert [place(copy["state"]), place(copy["images"]["top"])] == places
    assert copy["images"]["top"].tolist() == np.full((4, 6), 2).tolist()


@pytest.mark.parametrize("keep", [lambda a: a, lambda a: a[1:, ::2].T, memoryview])
def test_what_somebody_holds_stays_as_it_is(keep: Any) -> None:
    snapshots = Snapshots()
    kept = keep(snapshots.take(observation(1))["images"]["top"])
    for value in (2, 3):
        snapshots.take(observation(value))
    assert (np.asarray(kept) == 1).all()


@pytest.mark.parametrize(
    "other",
    [
        np.zeros((4, 5), np.uint8),
        np.zeros((4, 6), np.int8),
        np.ma.masked_array(np.zeros((4, 6), np.uint8), mask=np.eye(4, 6, dtype=bool)),
        np.arange(24, dtype=np.uint8).reshape(6, 4).T,
        "no array",
    ],
)
def test_an_observation_may_change_its_form(other: Any) -> None:
    snapshots = Snapshots()
    snapshots.take(observation(1))
    copy = snapshots.take({"images": {"top": other}})["images"]["top"]
    assert type(copy) is type(other)
    np.testing.assert_array_equal(copy, other)
    assert getattr(copy, "dtype", None) == getattr(other, "dtype", None)
    again = snapshots.take(observation(5))["images"]["top"]
    np.testing.assert_array_equal(again, observation(5)["images"]["top"])
