"""What brokers are told and what they say, where there is more than one or one has restarted."""

from __future__ import annotations

from dataclasses import replace

from scripts.rollout.actions import Plan
from scripts.rollout.brokers import known, summed
from scripts.rollout.facts import Compared, Figures, without_shadow

OLD, NEW = "aloha@1", "aloha@2"


def test_a_broker_is_told_what_it_can_know() -> None:
    plan = Plan(OLD, NEW, 0.5, move=True)
    assert known(plan, []) is None  # it has just restarted, and no worker has come back
    assert known(plan, [NEW]) is None
    assert known(plan, [OLD]) == Plan(OLD)
    assert known(plan, [OLD, NEW]) == plan
    retiring = Plan(NEW, retire=(OLD,))
    assert known(retiring, [NEW]) == Plan(NEW)
    assert known(retiring, [NEW, OLD]) == retiring


def test_counts_of_a_broker_that_is_gone_stay_and_its_workers_do_not() -> None:
    one = Figures(2, 2, 10, 3, 100, {"policy_failed": 1}, 40, 20.0)
    two = replace(one, ready=1, failed={"policy_failed": 2, "no_worker": 1}, p95_ms=30.0)
    failed = {"policy_failed": 3, "no_worker": 1}
    assert summed([one, two], [one, two]) == Figures(2, 2, 20, 6, 200, failed, 80, 30.0)
    assert summed([one, two], [two]) == Figures(1, 2, 20, 3, 200, failed, 40, 30.0)


def test_what_this_program_asked_itself_is_no_robots_request() -> None:
    seen = Figures(answered=10, failed={"policy_failed": 3, "no_worker": 1})
    assert without_shadow(seen, None) == seen
    shadow = Compared(asked=6, failed={"policy_failed": 2, "no_worker": 1})
    assert without_shadow(seen, shadow) == Figures(answered=7, failed={"policy_failed": 1})
