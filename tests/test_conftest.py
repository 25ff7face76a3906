"""The time of each group of tests is told."""

from __future__ import annotations

from tests.conftest import group, table


def test_a_test_counts_for_its_top_folder() -> None:
    assert group("tests/worker/models/test_pi0.py::test_a[tests/x::y]") == "worker"
    assert group("tests/client/test_body.py::test_b") == "client"
    assert group("tests/test_conftest.py::test_c") == "tests"


def test_the_slowest_group_comes_first_and_all_last() -> None:
    assert table({"client": 1.25, "e2e": 100.0}) == [
        "  100.0 s  e2e",
        "    1.2 s  client",
        "  101.2 s  all",
    ]
