"""Histories of a rollout as lists of facts: no process, no clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from conf.compose import compose
from scripts.rollout.actions import Action, Code, End, Plan, Say, Stop
from scripts.rollout.config import RolloutConfig
from scripts.rollout.facts import Compared, Facts, Figures
from scripts.rollout.judge import judge_requests, judge_shadow
from scripts.rollout.plan import GONE_S, RETIRE_S, Phase, Rollout

OLD, NEW = "aloha@1", "aloha@2"
NAMES = OLD, NEW
SERVING = Figures(ready=2, workers=2, episodes=100, running=4, answered=1000)


def config(*words: str) -> RolloutConfig:
    given = ("policy=aloha", "step_s=10", "step_episodes=3", "shares=[0.5,1]", *words)
    return compose("rollout", RolloutConfig, given)


class History:
    """A rollout that is told facts; each `look` changes some and keeps the others."""

    def __init__(self, *words: str, **first: Any) -> None:
        self.rollout = Rollout(OLD, NEW, config(*words))
        self.facts = Facts(0.0, stable=SERVING, **first)
        self.done: list[Action] = [*self.rollout.first(0.0)]

    def look(self, after_s: float = 1.0, *, new: Any = None, old: Any = None, **facts: Any) -> str:
        """The phase after a look that comes so much later."""
        for name, changes in (("stable", old), ("candidate", new)):
            if changes:
                facts[name] = replace(getattr(self.facts, name), **changes)
        self.facts = replace(self.facts, now=self.facts.now + after_s, **facts)
        self.done += self.rollout.next(self.facts)
        return self.rollout.phase.name

    def load(self) -> None:
        """The new version becomes ready, and the first step begins."""
        assert self.look(new={"workers": 1, "ready": 1}) == "STEP"

    def plans(self) -> list[Plan]:
        return [each for each in self.done if isinstance(each, Plan)]

    def end(self) -> End:
        (end,) = (each for each in self.done if isinstance(each, End))
        return end


def test_a_good_version_takes_over_step_by_step() -> None:
    history = History()
    assert history.plans() == [Plan(OLD)]  # before any worker of it is there
    assert history.look() == "LOADING"
    history.load()
    assert history.look(5.0, new={"episodes": 9, "answered": 90}) == "STEP"  # too soon
    assert history.look(5.0) == "STEP"
    assert history.plans()[-1] == Plan(OLD, NEW, 1.0)
    assert history.look(11.0, new={"episodes": 11}) == "STEP"  # 2 of 3 in this step
    assert history.look(new={"episodes": 12}) == "FINISHING"
    assert history.plans()[-1] == Plan(NEW, OLD, 0.0)
    assert history.look() == "FINISHING"  # four episodes of the old version go on
    assert history.look(old={"running": 0}) == "LEAVING"
    assert history.plans()[-1] == Plan(NEW, None, 0.0, retire=(OLD,))
    assert history.look() == "LEAVING"
    assert history.look(old={"workers": 0}) == "OVER"
    assert history.end().code is Code.DONE
    assert Stop() not in history.done
    assert [step.share for step in history.rollout.steps] == [0.5, 1.0]
    assert [step.candidate.episodes for step in history.rollout.steps] == [9, 3]
    assert history.look() == "OVER"


def test_old_episodes_that_take_too_long_are_moved_once() -> None:
    history = History("episode_s=30", "shares=[1]")
    history.load()
    assert history.look(11.0, new={"episodes": 3}) == "FINISHING"
    assert history.look(29.0) == "FINISHING"
    assert history.look(2.0) == "FINISHING"
    assert history.plans()[-1] == Plan(NEW, OLD, 0.0, move=True)
    assert history.look(0.1) == "LEAVING"  # those that still count as running have no request


def test_workers_that_stay_are_told_and_do_not_hold_the_end_up() -> None:
    history = History("shares=[1]")
    history.load()
    history.look(11.0, new={"episodes": 3})
    assert history.look(old={"running": 0}) == "LEAVING"
    assert history.look(RETIRE_S + 1) == "OVER"
    assert history.end().code is Code.DONE
    said = [each.text for each in history.done if isinstance(each, Say) and each.is_bad]
    assert said == [
        "aloha@1 has 2 workers, so robots may have to wait longer",  # of its one
        "still there after 30 s: 2 workers of aloha@1; end what runs there yourself",
    ]


def test_a_version_that_fails_is_returned_and_its_episodes_are_moved() -> None:
    history = History()
    history.load()
    assert history.look(new={"answered": 20, "failed": {"policy_failed": 2}}) == "STEP"  # fewer
    assert history.look(new={"answered": 20, "failed": {"policy_failed": 3}}) == "RETURNING"
    assert history.plans()[-1] == Plan(OLD, NEW, 0.0, move=True)
    assert history.look(new={"running": 0}) == "LEAVING"
    assert history.plans()[-1] == Plan(OLD, None, 0.0, retire=(NEW,))
    assert Stop() in history.done
    assert history.look(new={"workers": 0, "ready": 0}) == "OVER"
    assert history.end().code is Code.ROLLED_BACK
    assert history.end().reason == (
        "aloha@2 failed 3 of 23 requests (policy_failed 3), aloha@1 0 of 1000"
    )


def test_a_slow_version_is_returned_and_its_episodes_end_with_it() -> None:
    history = History("episode_s=30")
    history.load()
    quick = {"timed": 200, "p95_ms": 50.0}
    assert (
        history.look(old=quick, new={"answered": 60, "timed": 49, "p95_ms": 400.0, "running": 2})
        == "STEP"
    )
    # What the old version took is remembered when nobody asks it any more.
    slower = {"timed": 60, "p95_ms": 76.0}
    assert history.look(old={"timed": 0, "p95_ms": 0.0}, new=slower) == "STEP"
    assert history.look(9.0) == "STEP"
    assert history.look() == "RETURNING"
    assert history.plans()[-1] == Plan(OLD, NEW, 0.0, move=False)
    assert history.look() == "RETURNING"
    assert history.look(31.0) == "RETURNING"
    assert history.plans()[-1] == Plan(OLD, NEW, 0.0, move=True)
    assert history.look(new={"running": 0}) == "LEAVING"


def test_latencies_from_before_the_rollout_do_not_count() -> None:
    """The new version may have been the stable one a minute ago, as after a rollout that failed."""
    history = History("bounds.latency_s=1")
    history.load()
    slow = {"timed": 200, "p95_ms": 400.0}
    assert history.look(old={"timed": 200, "p95_ms": 50.0}, new={**slow, "answered": 49}) == "STEP"
    assert history.look(2.0) == "STEP"
    assert history.look(new={"answered": 50}) == "STEP"
    assert history.look(2.0) == "RETURNING"


def test_latency_counts_when_it_lasts_and_not_while_a_broker_is_back() -> None:
    history = History("step_episodes=0")
    history.load()
    quick, slow = {"timed": 200, "p95_ms": 50.0}, {"timed": 60, "p95_ms": 400.0, "answered": 60}
    assert history.look(9.0, old=quick, new=slow) == "STEP"
    assert history.look(9.0) == "STEP"  # longer than a step lasts, and not yet sure
    assert len(history.rollout.steps) == 0
    assert history.look(is_settled=False) == "STEP"
    assert history.look(is_settled=True) == "STEP"
    assert history.look(9.0, new={"p95_ms": 60.0}) == "STEP"
    assert [step.share for step in history.rollout.steps] == [0.5]
    # What fails meanwhile does not wait for it.
    history.look(new=slow)
    assert history.look(new={"failed": {"policy_failed": 30}}) == "RETURNING"


def test_other_actions_are_returned_before_a_robot_gets_one() -> None:
    history = History("bounds.largest_difference=0.1", shadow=Compared())
    assert history.look(new={"workers": 1, "ready": 1}) == "SHADOWED"
    assert history.look(shadow=Compared(asked=1, largest=0.2, mean=0.01)) == "RETURNING"
    assert all(plan.share == 0.0 for plan in history.plans())
    assert history.look(shadow=Compared()) == "LEAVING"
    assert history.look(new={"workers": 0, "ready": 0}) == "OVER"
    assert "differ from those of aloha@1 by 0.2 (largest" in history.end().reason


def test_steps_begin_after_so_many_comparisons_or_so_long() -> None:
    history = History("shadow.requests=10", "shadow.within_s=60", shadow=Compared())
    history.look(new={"workers": 1, "ready": 1})
    assert history.look(shadow=Compared(asked=9, largest=0.0, mean=0.0)) == "SHADOWED"
    assert history.look(shadow=Compared(asked=10, largest=0.0, mean=0.0)) == "STEP"
    history = History("shadow.requests=10", "shadow.within_s=60", shadow=Compared())
    history.look(new={"workers": 1, "ready": 1})
    assert history.look(61.0, shadow=Compared(asked=1, largest=0.0, mean=0.0)) == "STEP"
    history = History("shadow.requests=10", "shadow.within_s=60", shadow=Compared())
    history.look(new={"workers": 1, "ready": 1})
    assert history.look(61.0) == "RETURNING"  # nothing was compared: no reason to go on


@pytest.mark.parametrize("why", ["ended", "late"])
def test_a_version_that_does_not_load_is_taken_away(why: str) -> None:
    history = History("ready_within_s=60", "workers=2")
    assert history.look(new={"workers": 2, "ready": 1}) == "LOADING"
    words = ("with exit code 3; its log ends with: the weights are of another model",)
    assert history.look(1.0 if why == "ended" else 61.0, ended=words * (why == "ended")) == (
        "RETURNING"
    )
    assert history.look() == "LEAVING"
    assert history.plans()[-1] == Plan(OLD, None, 0.0, retire=(NEW,))
    assert history.look(new={"workers": 0}) == "OVER"
    assert history.end().code is Code.NOT_READY
    told = "another model" if why == "ended" else "1 of 2 workers of aloha@2 were ready after 60 s"
    assert told in history.end().reason


def test_a_version_whose_workers_have_gone_is_returned() -> None:
    history = History()
    history.load()
    assert history.look(new={"ready": 0}) == "STEP"
    assert history.look(GONE_S - 1, old={"ready": 0}) == "STEP"  # a broker that restarts has none
    assert history.look(GONE_S + 1, old={"ready": 2}) == "STEP"
    assert history.look(GONE_S + 1) == "RETURNING"
    assert history.plans()[-1].move


def test_without_episodes_it_does_not_wait_for_ever() -> None:
    history = History("step_longest_s=100")
    history.load()
    assert history.look(99.0, new={"episodes": 2}) == "STEP"
    assert history.look(2.0) == "RETURNING"
    assert history.look(new={"workers": 0}) == "LEAVING"
    history.look()
    assert "only 2 of 3 episodes began with aloha@2" in history.end().reason


def test_an_operator_interrupts_and_is_in_a_hurry_the_second_time() -> None:
    history = History()
    history.load()
    assert history.look(new={"running": 2}, interrupts=1) == "RETURNING"
    assert history.plans()[-1] == Plan(OLD, NEW, 0.0, move=False)
    assert history.look() == "RETURNING"
    assert history.look(interrupts=2) == "RETURNING"
    assert history.plans()[-1] == Plan(OLD, NEW, 0.0, move=True)
    assert history.look(new={"running": 0}) == "LEAVING"
    assert history.look(new={"workers": 0}) == "OVER"
    assert history.end().code is Code.INTERRUPTED


def test_an_interrupt_while_old_episodes_end_returns_and_later_ones_change_nothing() -> None:
    history = History("shares=[1]")
    history.load()
    assert history.look(11.0, new={"episodes": 3}) == "FINISHING"
    assert history.look(interrupts=1) == "RETURNING"
    assert history.plans()[-1] == Plan(OLD, NEW, 0.0, move=False)
    history = History("shares=[1]")
    history.load()
    history.look(11.0, new={"episodes": 3})
    assert history.look(old={"running": 0}) == "LEAVING"
    assert history.look(old={"workers": 0}, interrupts=1) == "OVER"
    assert history.end().code is Code.DONE


def test_workers_stay_until_robots_are_back_at_a_broker_that_restarted() -> None:
    history = History("shares=[1]")
    history.load()
    history.look(11.0, new={"episodes": 3})
    assert history.look(old={"running": 0}, is_settled=False) == "FINISHING"
    assert history.look(old={"running": 1}, is_settled=True) == "FINISHING"
    assert history.look(old={"running": 0}) == "LEAVING"


def test_what_is_waited_for_is_told_once_a_minute() -> None:
    history = History("ready_within_s=1000")
    for _ in range(130):
        history.look()
    said = [each.text for each in history.done if isinstance(each, Say)]
    assert said == ["0 of 1 workers of aloha@2 are ready"] * 2


def test_every_phase_has_something_to_do() -> None:
    for phase in Phase:
        history = History()
        history.rollout.phase = phase
        history.look()


def test_failures_count_against_those_of_the_old_version() -> None:
    bounds = config("bounds.failed_share=0.1").bounds
    old = Figures(answered=80, failed={"deadline_exceeded": 20})  # 20 %
    new = Figures(answered=72, failed={"deadline_exceeded": 28})
    assert judge_requests(NAMES, old, new, bounds) is None
    new = Figures(answered=68, failed={"deadline_exceeded": 32})
    breach = judge_requests(NAMES, old, new, bounds)
    assert breach is not None
    assert breach.moves
    given_up = Figures(answered=10, failed={"superseded": 50, "cancelled": 50})
    assert judge_requests(NAMES, Figures(answered=100), given_up, bounds) is None


def test_latency_has_a_factor_and_a_slack_and_may_not_be_judged() -> None:
    def breaks(old_ms: float, new_ms: float, *words: str) -> bool:
        old, new = Figures(timed=100, p95_ms=old_ms), Figures(timed=100, p95_ms=new_ms)
        return judge_requests(NAMES, old, new, config(*words).bounds) is not None

    assert not breaks(1.0, 20.0)  # 20 times, and 19 ms
    assert breaks(1.0, 22.0)
    assert not breaks(100.0, 149.0)
    assert breaks(100.0, 151.0)
    assert not breaks(100.0, 9000.0, "bounds.latency_factor=null")


def test_a_shadow_is_judged_by_failures_actions_and_times() -> None:
    def breach(compared: Compared, *words: str) -> str:
        found = judge_shadow(NAMES, compared, config(*words).bounds)
        return "" if found is None else found.reason

    good = Compared(asked=100, largest=0.5, mean=0.1, old_p95_ms=50.0, new_p95_ms=60.0)
    assert breach(good) == ""
    assert "by 0.5 (largest" in breach(good, "bounds.largest_difference=0.4")
    assert "by 0.1 (mean" in breach(good, "bounds.mean_difference=0.09")
    assert breach(good, "bounds.mean_difference=0.1", "bounds.largest_difference=0.5") == ""
    nan = replace(good, largest=float("inf"))
    assert "by inf" in breach(nan, "bounds.largest_difference=0.4")
    other = replace(good, other="float32 (50, 7) instead of float32 (50, 14)")
    assert breach(other) == ""
    assert "(50, 7)" in breach(other, "bounds.largest_difference=9")
    failing = replace(good, failed={"policy_failed": 3})
    assert "policy_failed 3" in breach(failing)
    assert "up to 90 ms" in breach(replace(good, new_p95_ms=90.0))
    assert breach(replace(good, asked=10, new_p95_ms=90.0)) == ""
