"""Real processes, real sockets, real signals: the short form of `python -m tests.chaos`."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.__main__ import AFTERMATH, Plan, run
from tests.chaos.monkey import FAULTS

# The long form's 0.2 s too would leave a busy machine's broker 20 ms to say why there is no answer.
PLAN = Plan(
    requests=400,
    robots=4,
    workers=2,
    seed=7,
    period_s=0.08,
    pause_s=0.5,
    deadlines_s=(1.0, 1.0, 5.0, 5.0, 5.0),
    robot_links=2,
)


def test_nothing_is_wrong_or_lost_and_all_is_well_again(tmp_path: Path) -> None:
    told: list[int] = []
    report = run(PLAN, tmp_path, told.append)
    summary = report.under_faults
    assert (summary.wrong, summary.lost, summary.untyped) == (0, 0, 0), summary.examples
    assert summary.requests == PLAN.requests == max(told)
    # Most requests were answered, or the run has shown little.
    assert summary.right > PLAN.requests / 2, summary.errors
    assert set(report.faults) == {fault.name for fault in FAULTS}
    assert sum(report.faults.values()) > 10
    assert report.workers_back == PLAN.workers
    assert report.afterwards.right == report.afterwards.requests == AFTERMATH * PLAN.robots
