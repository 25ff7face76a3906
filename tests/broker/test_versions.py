"""Versions of one policy: which one an episode gets, that it keeps it, and what a rollout does."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from broker.config import BrokerConfig, Limits
from broker.names import GRACE_S
from client.body import decode_body
from client.wire import Header
from tests.broker.scenario import Ask, Scenario


@pytest.fixture
def story() -> Scenario:
    """A broker with two versions of a policy; the first worker of version 1 came first."""
    return two_versions(Scenario())


def two_versions(story: Scenario) -> Scenario:
    """Version 1 has two workers and version 2 has one, each with many slots."""
    for name, policy in (("old", "aloha@1"), ("older", "aloha@1"), ("new", "aloha@2")):
        story.join(name, policy, slots=60)
    return story


def plan(story: Scenario, **fields: Any) -> dict[str, Any]:
    """Send a plan (or only ask, with no fields); returns the answer's body."""
    header, body = story.tell_all("boss", "rollout", {"policy": "aloha", **fields})
    assert header["kind"] == "pong", header
    return decode_body(body)


def refusal(story: Scenario, **fields: Any) -> tuple[str, str]:
    """The code and the message with which a plan is refused."""
    header, _ = story.tell_all("boss", "rollout", {"policy": "aloha", **fields})
    return header["code"], header["message"]


def answer(story: Scenario, ask: Ask) -> Header:
    """Let every worker answer all that it has; returns the answer to this."""
    for name in list(story.hands):
        while story.work(name):
            story.finish(name)
    assert story.outcome(ask) == "result"
    return ask.answers[-1][1]


def version_of(story: Scenario, robot: str, **header: Any) -> str:
    """The version that answers a request of a robot."""
    answered = answer(story, story.ask(robot, **{"policy": "aloha", **header}))
    return str(answered["version"])


def test_without_a_plan_the_version_that_came_first_answers(story: Scenario) -> None:
    assert {version_of(story, f"arm{n}") for n in range(5)} == {"aloha@1"}
    assert plan(story)["episodes"] == {"aloha@1": 5}


def test_the_name_itself_is_preferred_to_its_versions(story: Scenario) -> None:
    story.join("plain", "aloha")
    assert version_of(story, "arm") == "aloha"


def test_who_asks_for_a_version_gets_it_and_is_told_nothing_new(story: Scenario) -> None:
    ask = story.ask("arm", policy="aloha@2")
    assert story.work("new") == [ask.id]
    assert "version" not in answer(story, ask)
    assert plan(story)["episodes"] == {}


def test_who_names_no_policy_means_the_versions_of_the_only_one(story: Scenario) -> None:
    assert version_of(story, "arm", policy=None) == "aloha@1"


def test_a_name_without_versions_is_told_and_nothing_is_remembered() -> None:
    story = Scenario()
    story.join("w1", "droid")
    assert {version_of(story, "arm", policy=name) for name in ("droid", None)} == {"droid"}
    assert not story.core.versions.records


def test_an_episode_that_is_older_than_all_versions_is_not_moved_to_the_first_one() -> None:
    story = Scenario()
    story.join("old", "aloha")
    told = version_of(story, "arm")
    story.join("new", "aloha@1")
    plan(story, stable="aloha", candidate="aloha@1", share=1.0)
    assert version_of(story, "arm", version=told) == "aloha"
    assert version_of(story, "another") == "aloha@1"


def test_nor_is_it_where_its_client_does_not_tell_what_answered() -> None:
    story = Scenario()
    story.join("old", "aloha", slots=60)
    story.join("droid", "droid")
    for robot in ("arm", "ended", "idle"):
        assert version_of(story, robot) == "aloha"
    assert version_of(story, "arm", policy="droid") == "droid"  # in the same session
    story.request("ended", "reset", session="")
    story.after(Limits().episode_idle_s + 1.0)
    for robot in ("arm", "late"):
        assert version_of(story, robot) == "aloha"
    story.join("new", "aloha@1", slots=60)
    plan(story, stable="aloha@1")
    assert plan(story)["running"] == {"aloha": 2}
    assert [version_of(story, robot) for robot in ("arm", "late")] == ["aloha"] * 2
    assert [version_of(story, robot) for robot in ("ended", "idle")] == ["aloha@1"] * 2


def test_episodes_without_versions_are_bounded() -> None:
    story = Scenario(BrokerConfig(limits=Limits(max_episodes=3)))
    story.join("old", "aloha", slots=60)
    for number in range(12):
        story.join(f"w{number}", f"p{number}")
        version_of(story, "arm0", policy=f"p{number}")
    for number in range(5):
        version_of(story, f"arm{number}")
    assert len(story.core.versions) == 3
    assert max(map(len, story.core.versions._unversioned.values())) <= 8


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_a_candidate_gets_its_share_of_new_episodes_evenly(story: Scenario, share: float) -> None:
    plan(story, stable="aloha@1", candidate="aloha@2", share=share)
    given = Counter[str]()
    for number in range(60):
        given[version_of(story, f"arm{number}")] += 1
        most = share * given.total()
        assert most - 1 < given["aloha@2"] <= most + 1e-6


def test_an_episode_stays_on_its_version_whatever_the_plan_becomes(story: Scenario) -> None:
    plan(story, stable="aloha@1", candidate="aloha@2", share=0.5)
    before = {name: version_of(story, name) for name in ("a", "b", "c", "d")}
    assert set(before.values()) == {"aloha@1", "aloha@2"}
    plan(story, stable="aloha@2")
    assert {name: version_of(story, name) for name in before} == before
    assert version_of(story, "e") == "aloha@2"
    assert plan(story)["running"] == {"aloha@1": 2, "aloha@2": 3}


def test_a_reset_ends_an_episode(story: Scenario) -> None:
    assert version_of(story, "arm") == "aloha@1"
    plan(story, stable="aloha@2")
    story.request("arm", "reset", session="")
    assert version_of(story, "arm") == "aloha@2"


def test_an_episode_that_is_idle_for_long_is_over(story: Scenario) -> None:
    assert version_of(story, "arm") == "aloha@1"
    plan(story, stable="aloha@2")
    story.after(59.0)
    assert version_of(story, "arm") == "aloha@1"
    story.after(61.0)
    assert plan(story)["running"] == {}
    assert version_of(story, "arm") == "aloha@2"


def test_an_episode_goes_on_with_another_version_when_its_own_is_gone() -> None:
    story = Scenario()
    story.join("old", "aloha@1")
    story.join("new", "aloha@2")
    first = version_of(story, "arm")
    held = story.ask("arm", policy="aloha")
    story.die("old")
    story.after(0.1)
    assert story.work("new") == [held.id]
    assert (first, answer(story, held)["version"]) == ("aloha@1", "aloha@2")
    told = plan(story)
    assert (told["moved"], told["running"]) == (1, {"aloha@2": 1})
    story.join("old again", "aloha@1")
    assert version_of(story, "arm") == "aloha@2"  # and stays there


def test_requests_that_wait_for_a_version_that_leaves_go_on_with_another() -> None:
    story = Scenario()
    story.join("old", "aloha@1")
    asks = [story.ask(f"arm{n}", policy="aloha") for n in range(3)]
    exact = story.ask("picky", policy="aloha@1")
    story.join("new", "aloha@2", slots=5)
    assert story.work("new") == []
    story.beat("old", state="draining")
    assert story.work("new") == [asks[1].id, asks[2].id]
    assert answer(story, asks[0])["version"] == "aloha@1"
    assert story.outcome(exact) == "waiting"


def test_where_nobody_is_left_whoever_comes_first_goes_on() -> None:
    story = Scenario()
    story.join("old", "aloha@1")
    assert version_of(story, "arm") == "aloha@1"
    story.die("old")
    story.after(0.1)
    ask = story.ask("arm", policy="aloha")
    story.hello("new", "aloha@2")
    assert story.outcome(ask) == "waiting"
    story.ready("new")
    assert answer(story, ask)["version"] == "aloha@2"


def test_a_candidate_that_still_loads_gets_nothing() -> None:
    story = Scenario()
    story.join("old", "aloha@1")
    story.hello("new", "aloha@2")
    plan(story, stable="aloha@1", candidate="aloha@2", share=1.0)
    assert version_of(story, "arm") == "aloha@1"
    story.ready("new")
    assert version_of(story, "bee") == "aloha@2"
    assert version_of(story, "arm") == "aloha@1"


def test_what_the_client_says_survives_a_restart_of_the_broker() -> None:
    story = Scenario(age_s=0.0)
    waiting = story.ask("arm", policy="aloha", version="aloha@2")
    story.join("old", "aloha@1")
    assert story.outcome(waiting) == "waiting"
    assert story.work("old") == []
    story.hello("new", "aloha@2", state="ready")
    story.ready("new")
    assert answer(story, waiting)["version"] == "aloha@2"
    assert version_of(story, "arm", version="aloha@2") == "aloha@2"
    assert plan(story)["moved"] == 0


def test_an_episode_that_waited_for_its_version_after_a_restart_is_remembered() -> None:
    story = Scenario(age_s=0.0)
    waiting = story.ask("arm", policy="aloha", version="aloha@2")
    story.join("old", "aloha@1")
    story.hello("new", "aloha@2", state="ready")
    story.ready("new")
    assert answer(story, waiting)["version"] == "aloha@2"
    plan(story, stable="aloha@1")
    assert version_of(story, "arm") == "aloha@2"  # its client has forgotten, in another session


@pytest.mark.parametrize("others", [["aloha@1"], ["aloha"], ["aloha", "aloha@1"]])
def test_a_version_that_does_not_come_back_is_waited_for_while_the_broker_is_young(
    others: list[str],
) -> None:
    story = Scenario(age_s=0.0)
    for number, name in enumerate(others):
        story.join(f"w{number}", name)
    ask = story.ask("arm", policy="aloha", version="aloha@2")
    story.after(GRACE_S - 0.1)
    assert story.outcome(ask) == "waiting"
    story.after(0.2)
    assert answer(story, ask).get("version", "aloha") == others[0]


def test_an_episode_that_waited_for_its_version_to_come_back_is_remembered() -> None:
    story = Scenario(age_s=0.0)
    story.join("plain", "aloha")
    waiting = story.ask("arm", policy="aloha", version="aloha@1")
    story.hello("one", "aloha@1", state="ready")
    story.ready("one")
    assert answer(story, waiting)["version"] == "aloha@1"
    assert version_of(story, "arm") == "aloha@1"  # whatever its client has had meanwhile
    assert plan(story)["running"] == {"aloha@1": 1}


def test_what_the_client_says_goes_before_what_the_broker_remembers(story: Scenario) -> None:
    assert version_of(story, "arm") == "aloha@1"  # then another broker answers, by version 2
    assert version_of(story, "arm", version="aloha@2") == "aloha@2"
    assert plan(story)["moved"] == 0


@pytest.mark.parametrize("told", ["droid@1", "aloha@3", "aloha", "@", "aloha@1@2"])
def test_a_version_that_cannot_be_meant_is_not_followed(story: Scenario, told: str) -> None:
    story.join("d", "droid@1")
    assert version_of(story, "arm", version=told) == "aloha@1"


def test_a_request_that_comes_again_is_joined_whatever_the_plan_is(story: Scenario) -> None:
    ask = story.ask("arm", policy="aloha")
    plan(story, stable="aloha@2", move=True)
    story.ask("arm", again=ask)
    assert answer(story, ask)["version"] == "aloha@1"
    assert version_of(story, "arm", version="aloha@1") == "aloha@2"


def test_episodes_move_at_once_where_the_plan_says_so(story: Scenario) -> None:
    plan(story, stable="aloha@1", candidate="aloha@2", share=1.0)
    assert version_of(story, "arm") == "aloha@2"
    told = plan(story, stable="aloha@1", candidate="aloha@2", share=0.0)
    assert told["running"] == {"aloha@2": 1}
    assert version_of(story, "arm") == "aloha@2"
    told = plan(story, stable="aloha@1", candidate="aloha@2", share=0.0, move=True)
    assert (told["running"], told["moved"]) == ({"aloha@1": 1}, 1)
    assert version_of(story, "arm", version="aloha@2") == "aloha@1"


def test_the_same_plan_again_changes_nothing(story: Scenario) -> None:
    fields: dict[str, Any] = {"stable": "aloha@1", "candidate": "aloha@2", "share": 0.25}
    given = Counter[str]()
    for number in range(8):
        plan(story, **fields)
        given[version_of(story, f"arm{number}")] += 1
    assert given == {"aloha@1": 6, "aloha@2": 2}


def test_retired_workers_get_nothing_more_and_are_told_until_they_hear(story: Scenario) -> None:
    asks = [story.ask(f"arm{n}", policy="aloha") for n in range(4)]
    plan(story, stable="aloha@2", retire=["aloha@1"])
    assert [each["kind"] for each in story.told["old"][-1:]] == ["retire"]
    story.told["old"].clear()
    story.beat("old", state="ready")  # the message was lost
    assert [each["kind"] for each in story.told["old"]] == ["retire"]
    assert version_of(story, "arm0") == "aloha@2"
    for ask in asks:
        assert answer(story, ask)["version"] == "aloha@1"
    for name in ("old", "older"):
        story.beat(name, state="draining")
        story.tell_from(name, "goodbye")
    assert {version_of(story, f"arm{n}") for n in range(4)} == {"aloha@2"}
    assert plan(story)["requests"]["aloha@1"] == {"answered": 4, "failed": {}}


def test_failures_are_counted_by_version_and_code(story: Scenario) -> None:
    plan(story, stable="aloha@1", candidate="aloha@2", share=1.0)
    story.ask("arm", policy="aloha")
    story.finish("new", "failure", code="policy_failed", message="no")
    requests = plan(story)["requests"]
    assert requests["aloha@2"] == {"answered": 0, "failed": {"policy_failed": 1}}
    assert requests["aloha@1"] == {"answered": 0, "failed": {}}


def test_remembered_episodes_are_bounded_and_it_shows() -> None:
    config = BrokerConfig(limits=Limits(max_episodes=3))
    story = two_versions(Scenario(config))
    for number in range(5):
        version_of(story, f"arm{number}")
    assert len(story.core.versions) == 3
    assert story.core.counters["episodes forgotten (limits.max_episodes)"] == 2
    assert plan(story)["running"] == {"aloha@1": 3}


def test_one_client_may_use_one_session_for_two_policies(story: Scenario) -> None:
    story.join("d", "droid@1")
    for _ in range(2):
        assert version_of(story, "arm") == "aloha@1"
        assert version_of(story, "arm", policy="droid") == "droid@1"
    assert plan(story)["running"] == {}
    assert len(story.core.versions) == 1


@pytest.mark.parametrize(
    ("fields", "code", "expected"),
    [
        ({"policy": "aloah"}, "unknown_policy", "did you mean 'aloha'?"),
        ({"policy": "aloha@1"}, "protocol_error", "without a version"),
        ({"policy": None}, "protocol_error", "policy is None"),
        ({"stable": "aloha@11"}, "unknown_policy", "did you mean 'aloha@1'?"),
        ({"stable": 1}, "protocol_error", "stable is 1"),
        ({"stable": "aloha@1", "candidate": "aloha@1"}, "protocol_error", "both 'aloha@1'"),
        ({"candidate": "aloha@1"}, "protocol_error", "stable is missing"),
        ({"stable": "aloha@1", "share": 1.5}, "protocol_error", "from 0 to 1"),
        ({"stable": "aloha@1", "share": True}, "protocol_error", "share is True"),
        ({"stable": "aloha@1", "share": float("nan")}, "protocol_error", "share is nan"),
        ({"stable": "aloha@1", "move": 1}, "protocol_error", "true or false"),
        ({"stabel": "aloha@1"}, "protocol_error", "did you mean 'stable'?"),
        ({"retire": "aloha@1"}, "protocol_error", "a list of names"),
        ({"retire": ["droid"]}, "unknown_policy", "'droid'"),
        ({"retire": ["aloha@1", "aloha@2"]}, "protocol_error", "no other version can answer"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    story: Scenario, fields: dict[str, Any], code: str, expected: str
) -> None:
    got, message = refusal(story, **fields)
    assert (got, expected in message) == (code, True), message
    assert (plan(story)["stable"], story.told["old"][-1]["kind"]) == (None, "welcome")


def test_an_answer_of_the_version_that_was_left_counts_as_its_own() -> None:
    story = Scenario()
    story.join("old", "aloha@1")
    ask = story.ask("arm", policy="aloha", deadline_s=60.0)
    story.after(1.0)  # its lease ends
    story.beat("old", state="draining")
    story.join("new", "aloha@2")
    story.join("other", "aloha@2")
    assert story.work("old") == [ask.id]
    assert ask.id in story.work("new") + story.work("other")
    story.finish("old")
    assert ask.answers[-1][1]["version"] == "aloha@1"
    assert plan(story)["requests"]["aloha@1"]["answered"] == 1


def test_a_plan_is_one_small_body(story: Scenario) -> None:
    header, _ = story.tell_all("boss", "rollout", {"retire": ["x" * 1000] * 100})
    assert header["code"] == "protocol_error"
    assert "64000 bytes" in header["message"]


@pytest.mark.parametrize("name", ["@", "@1", "aloha@", "aloha@1@2"])
def test_a_worker_with_an_impossible_name_is_refused(story: Scenario, name: str) -> None:
    story.hello("odd", name)
    assert story.told["odd"][-1]["code"] == "worker_refused"


def test_versions_may_differ_and_workers_of_one_version_may_not(story: Scenario) -> None:
    story.hello("other", "aloha@3", digest="e")
    assert story.told["other"][-1]["kind"] == "welcome"
    story.hello("wrong", "aloha@2", digest="e")
    assert "version=" in story.told["wrong"][-1]["message"]


def test_metadata_is_that_of_the_version_that_would_answer(story: Scenario) -> None:
    assert story.tell_all("arm", "metadata", None, policy="aloha")[1] == [b"metadata of older"]
    plan(story, stable="aloha@2")
    assert story.tell_all("arm", "metadata", None, policy="aloha")[1] == [b"metadata of new"]
    assert plan(story)["episodes"] == {}


def test_an_episode_that_a_worker_had_when_the_first_version_came_is_remembered() -> None:
    story = Scenario()
    story.join("old", "aloha")
    asked = story.ask("arm", policy="aloha")
    story.join("new", "aloha@2")
    assert answer(story, asked)["version"] == "aloha"
    plan(story, stable="aloha@2")
    assert version_of(story, "arm") == "aloha"  # a client that does not say where it was
    assert version_of(story, "leg") == "aloha@2"
