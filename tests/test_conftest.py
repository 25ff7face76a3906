"""The time of each group of tests is told, and which tests failed at first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


_UNSTEADY = """
from pathlib import Path
from tests.conftest import FailedAtFirst

ONCE = Path(__file__).with_name("once")

def pytest_configure(config):
    config.pluginmanager.register(FailedAtFirst())
"""
_TESTS = """
from conftest import ONCE

def test_passes_the_second_time():
    is_first = not ONCE.exists()
    ONCE.touch()
    assert not is_first, "the machine stood still"

def test_fails_both_times():
    assert 1 == 2
"""


def test_a_test_that_fails_is_run_once_more_and_shown(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(_UNSTEADY)
    (tmp_path / "test_it.py").write_text(_TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]")
    command = [sys.executable, "-m", "pytest", "--reruns", "1", "-p", "no:cacheprovider"]
    run = subprocess.run([*command, tmp_path], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "1 failed, 1 passed, 2 rerun" in run.stdout
    shown = run.stdout.partition("failed at first, and were run again")[2]
    assert "the machine stood still" in shown
    assert "test_fails_both_times" in shown
