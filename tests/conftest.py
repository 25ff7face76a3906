"""What every test runs with, how long each group took, and which tests failed at first."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import settings

# Examples are the same in every run, and no example fails for being slow: the gate must not
# depend on chance or on how busy the machine is.
settings.register_profile("gate", deadline=None, derandomize=True, database=None)
settings.load_profile("gate")

# Two processes run the tests, and those start more: a thread of torch that waits by spinning would
# keep the others from the cores (measured: twice the time for the models' tests). And two threads
# each only take turns (a tenth more time).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `make test &` and `nohup make test` ignore signals, and our processes keep to what they inherit:
# tests that send them signals need what a terminal gives.
for number, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


def group(node_id: str) -> str:
    """The folder below `tests/` that holds a test; `tests` for one that is in none."""
    parts = Path(node_id.partition("::")[0]).parts
    return parts[1] if len(parts) > 2 else parts[0]


def table(seconds: dict[str, float]) -> list[str]:
    """A line for each group, the slowest first, and one for all."""
    rows = sorted(seconds.items(), key=lambda row: -row[1])
    return [f"{took:7.1f} s  {name}" for name, took in [*rows, ("all", sum(seconds.values()))]]


class TimesByGroup:
    """A plugin that prints the seconds of each group, fixtures included, after all tests."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for the set-up, the call and the tear-down of each test."""
        self.seconds[group(report.nodeid)] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Called when all tests have run."""
        terminalreporter.section("time by group")
        for line in table(self.seconds):
            terminalreporter.write_line(line)


class FailedAtFirst:
    """A plugin that shows the failures of tests that were run again (`--reruns`)."""

    def __init__(self) -> None:
        self.reports: list[pytest.TestReport] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Called for the set-up, the call and the tear-down of each test."""
        if str(report.outcome) == "rerun":
            self.reports.append(report)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Called when all tests have run."""
        if self.reports:
            terminalreporter.section("failed at first, and were run again")
        for report in self.reports:
            terminalreporter.section(report.nodeid, sep="-")
            terminalreporter.write_line(report.longreprtext)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test printed may hold lone surrogates, which no channel between processes takes."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


def pytest_configure(config: pytest.Config) -> None:
    """Called once, before tests are collected."""
    config.pluginmanager.register(TimesByGroup(), "times-by-group")
    config.pluginmanager.register(FailedAtFirst(), "failed-at-first")
