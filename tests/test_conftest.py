"""The time of each group of tests is told, and which tests failed at first."""

from __future__ import annotations

import pytest

from tests.conftest import FailedAtFirst, group, table

pytest_plugins = ["pytester"]


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


_TESTS = """
ONCE = []

def test_passes_the_second_time():
    ONCE.append(1)
    assert len(ONCE) == 2, "the machine stood still"

def test_fails_both_times():
    assert 1 == 2
"""


def test_a_test_that_fails_is_run_once_more_and_shown(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(_TESTS)
    without = [word for name in ("cacheprovider", "xdist") for word in ("-p", f"no:{name}")]
    run = pytester.runpytest_inprocess("--reruns", "1", *without, plugins=[FailedAtFirst()])
    assert run.ret == pytest.ExitCode.TESTS_FAILED
    printed = run.stdout.str()
    assert "1 failed, 1 passed, 2 rerun" in printed
    shown = printed.partition("failed at first, and were run again")[2]
    assert "the machine stood still" in shown
    assert "test_fails_both_times" in shown
