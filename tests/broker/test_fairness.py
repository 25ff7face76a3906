"""Live robots before evaluations, teams by weight, and quotas: told as stories of the core."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from broker.config import BrokerConfig, FairnessConfig
from broker.status import report
from broker.teams import Team
from tests.broker.scenario import Ask, Scenario


def story_of(
    teams: dict[str, Team] | None = None, reserve_live: int = 0, share: float = 0.05
) -> Scenario:
    config = BrokerConfig(fairness=FairnessConfig(share, reserve_live))
    config.limits.max_requests_per_robot = 100
    return Scenario(config, teams=teams)


def order(story: Scenario) -> list[str]:
    """Whose requests workers were given, in their order."""
    return [header["id"].client.rstrip().decode() for _, header in story.given]


def evaluate(story: Scenario, robot: str, **header: Any) -> Ask:
    return story.ask(robot, traffic="evaluation", **header)


def test_live_robots_go_first_whatever_an_evaluation_says() -> None:
    story = story_of()
    story.join("w")
    evaluate(story, "under way")
    evaluate(story, "job", priority=0, deadline_s=1.0)
    story.ask("arm", priority=9, deadline_s=9.0)
    for _ in range(3):
        story.finish("w")
    assert order(story) == ["under way", "arm", "job"]  # it waited for one inference, no more


def test_an_evaluation_is_not_starved_and_gets_no_more_than_its_share() -> None:
    story = story_of(share=0.1)
    story.join("w")
    for number in range(40):
        story.ask(f"arm {number}")
    for number in range(10):
        evaluate(story, f"job {number}")
    for _ in range(40):
        story.finish("w")
    assert sum(name.startswith("job") for name in order(story)[1:]) == 4


def test_slots_are_kept_for_live_robots() -> None:
    story = story_of(reserve_live=1)
    for name in ("w1", "w2"):
        story.join(name)
    first = evaluate(story, "job 1")
    waits = evaluate(story, "job 2", deadline_s=0.2)
    assert order(story) == ["job 1"]
    live = story.ask("arm")
    assert order(story) == ["job 1", "arm"]  # at once
    story.after(0.3)
    assert story.outcome(waits) == "deadline_exceeded"
    assert "fairness.reserve_live" in story.message(waits)
    for name in ("w1", "w2"):
        story.finish(name)
    assert [story.outcome(first), story.outcome(live)] == ["result", "result"]
    evaluate(story, "job 3")
    assert order(story)[-1] == "job 3"


def test_teams_share_by_weight() -> None:
    story = story_of({"heavy": Team(["a"], 2.0), "light": Team(["b"])})
    story.join("w")
    for robot in ("a", "b", "in none"):
        for number in range(20):
            story.ask(robot, session=f"{number}")
    for _ in range(23):
        story.now += 0.01
        story.finish("w")
    assert Counter(order(story)[:24])["a"] in (11, 12, 13)
    assert Counter(order(story)[:24])["b"] in (5, 6, 7)
    teams = {each["name"]: each for each in status(story)}
    assert teams["heavy"]["weight"] == 2.0
    assert teams["heavy"]["in_hand"] > 0


@pytest.mark.parametrize("quota", ["max_requests", "max_rate", "max_rate_per_member"])
def test_a_quota_that_is_used_up_is_named(quota: str) -> None:
    given: dict[str, Any] = {quota: 2}
    story = story_of({"lab": Team(["a", "b"], **given)})
    story.join("w")
    asks = [story.ask("a", session=f"{number}") for number in range(3)]
    assert [story.outcome(ask) for ask in asks] == ["waiting", "waiting", "overloaded"]
    for words in ("'lab'", quota, "try again later", "fairness.teams"):
        assert words in story.message(asks[2])
    assert 0 < story.retry_after_s(asks[2]) <= 1.0
    assert [each["refused"] for each in status(story) if each["name"] == "lab"] == [{quota: 1}]
    others = story.ask("b")
    assert story.outcome(others) == ("waiting" if quota == "max_rate_per_member" else "overloaded")
    assert story.outcome(story.ask("in none")) == "waiting"
    for _ in range(3):
        story.finish("w")
    story.after(story.retry_after_s(asks[2]))
    assert story.outcome(story.ask("a")) == "waiting"


def test_a_newer_observation_in_an_olders_place_is_none_more() -> None:
    story = story_of({"lab": Team(["a"], max_requests=2)})
    story.join("w")
    for _ in range(4):
        last = story.ask("a")
    assert story.outcome(last) == "waiting"
    assert story.outcome(story.ask("a", session="another")) == "overloaded"


def test_a_team_has_its_share_of_the_workers_and_leaves_the_rest() -> None:
    story = story_of({"lab": Team(["a"], max_share=0.5)})
    for number in range(4):
        story.join(f"w{number}")
    asks = [story.ask("a", session=f"{number}", deadline_s=0.2) for number in range(3)]
    assert order(story) == ["a", "a"]
    story.ask("other")
    assert order(story) == ["a", "a", "other"]
    story.after(0.3)
    assert story.outcome(asks[2]) == "deadline_exceeded"
    assert "'lab' may have 2 of 4 slots (max_share)" in story.message(asks[2])


def test_a_team_may_be_for_evaluation_whatever_its_members_say() -> None:
    story = story_of({"jobs": Team(["job"], traffic="evaluation")})
    story.join("w")
    story.ask("first")
    story.ask("job", traffic="live", priority=0)
    story.ask("arm", priority=5)
    for _ in range(3):
        story.finish("w")
    assert order(story) == ["first", "arm", "job"]


def test_teams_can_be_exchanged_while_their_requests_are_in_hand() -> None:
    story = story_of({"lab": Team(["a"], max_requests=1), "gone": Team(["b"])})
    story.join("w")
    asks = [story.ask("a"), story.ask("b"), story.ask("a", session="x")]
    assert [story.outcome(ask) for ask in asks] == ["waiting", "waiting", "overloaded"]
    story.core.inflight.fairness.use({"lab": Team(["b"], 3.0)})
    assert story.outcome(story.ask("a", session="x")) == "waiting"  # it is in none now
    for _ in range(3):
        story.finish("w")
    assert story.core.in_hand == 0
    assert {each["name"]: each["weight"] for each in status(story)}["lab"] == 3.0
    assert not story.core.inflight.fairness.shares


def test_without_teams_nobody_is_told_apart() -> None:
    story = story_of()
    story.join("w")
    story.ask("arm")
    assert not story.core.inflight.fairness.is_on
    assert status(story) == []


def status(story: Scenario) -> list[dict[str, Any]]:
    """What the broker's status tells of teams."""
    core = story.core
    told = report(core.telemetry, core.pool, core.inflight, (), story.now)["teams"]
    return list(told)
