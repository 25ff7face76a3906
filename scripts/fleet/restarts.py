"""When a process that ended is started again, and when it is given up."""

from __future__ import annotations

from dataclasses import dataclass

from scripts.fleet.config import RestartSettings

MISCONFIGURED = 2
"""The exit code of our processes for settings that are wrong: trying again would change nothing."""


@dataclass(frozen=True)
class Again:
    """It is started again after `wait_s` seconds; so often it has now ended in a row."""

    wait_s: float
    failures: int


@dataclass(frozen=True)
class GivenUp:
    """It is not started again."""

    reason: str


def after_exit(
    code: int, failures: int, ready_s: float | None, settings: RestartSettings
) -> Again | GivenUp:
    """What follows when a process ended that was to run.

    Args:
        code: its exit code; negative for a signal.
        failures: how often it had ended in a row before.
        ready_s: how long it had been ready, None if it never was.
        settings: the fleet's.
    """
    if code == MISCONFIGURED:
        return GivenUp("its settings are wrong")
    if ready_s is not None and ready_s >= settings.stable_s:
        failures = 0
    failures += 1
    if failures >= settings.tries:
        return GivenUp(f"it ended {failures} times in a row")
    # No power of two is needed that is larger than the longest wait; a float has no 2**5000.
    wait_s = settings.first_s * 2.0 ** min(failures - 1, 64)
    return Again(min(wait_s, settings.longest_s), failures)
