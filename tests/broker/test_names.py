"""Served names: known, unknown, unnamed, ambiguous, and what a young broker cannot know yet."""

from __future__ import annotations

import pytest

from broker.config import BrokerConfig
from broker.names import GRACE_S, NAMELESS_GRACE_S
from broker.workers import FORGOTTEN_S
from client import errors
from tests.broker.scenario import Scenario


@pytest.fixture
def story() -> Scenario:
    """A broker that has been up for a while."""
    return Scenario()


@pytest.fixture
def young() -> Scenario:
    """A broker that has just started."""
    return Scenario(age_s=0.0)


def test_an_unknown_name_is_refused_at_once_with_the_nearest(story: Scenario) -> None:
    story.join("w1", "aloha_sim")
    story.join("w2", "droid")
    ask = story.ask("arm", policy="aloha_sin")
    assert story.outcome(ask) == "unknown_policy"
    assert "did you mean 'aloha_sim'?" in story.message(ask)
    assert "served are: aloha_sim, droid" in story.message(ask)


def test_an_unknown_name_where_nothing_is_served(story: Scenario) -> None:
    ask = story.ask("arm", policy="aloha")
    assert story.outcome(ask) == "unknown_policy"
    assert "nothing is served yet" in story.message(ask)


def test_a_young_broker_waits_for_workers_to_say_what_they_serve(young: Scenario) -> None:
    early = young.ask("arm", policy="aloha")
    young.after(GRACE_S - 0.1)
    assert young.outcome(early) == "waiting"
    young.join("w1", "aloha")
    young.finish("w1")
    assert young.outcome(early) == "result"


@pytest.mark.parametrize("others", [0, 1])
def test_a_young_broker_gives_a_name_up_when_it_has_learned(young: Scenario, others: int) -> None:
    born = young.now
    for number in range(others):
        young.join(f"w{number}", "droid")
    ask = young.ask("arm", policy="aloha", deadline_s=60.0)
    young.after(GRACE_S + 0.5)
    assert young.outcome(ask) == "unknown_policy"
    assert young.took_s(ask, born) == pytest.approx(GRACE_S, abs=0.01)
    young.after(30.0)  # and the core rests: the scenario checks that


@pytest.mark.parametrize("asks_first", [True, False])
def test_a_young_broker_hears_who_is_there_before_no_name_means_one(
    young: Scenario, asks_first: bool
) -> None:
    early = young.ask("arm") if asks_first else None
    young.join("w1", "droid")
    ask = early or young.ask("arm")
    young.after(NAMELESS_GRACE_S - 0.1)
    assert young.outcome(ask) == "waiting"  # the robot may be another one's
    young.join("w2", "aloha")
    assert young.outcome(ask) == "waiting"
    young.after(0.2)
    assert young.outcome(ask) == "ambiguous_policy"
    young.after(30.0)


def test_a_young_broker_serves_who_names_none_when_it_has_heard_one(young: Scenario) -> None:
    born = young.now
    young.join("w1", "droid")
    ask = young.ask("arm")
    young.after(NAMELESS_GRACE_S)
    young.finish("w1")
    assert young.outcome(ask) == "result"
    assert young.took_s(ask, born) == pytest.approx(NAMELESS_GRACE_S, abs=0.01)
    named = young.ask("arm", policy="droid")
    young.finish("w1")
    assert young.outcome(named) == "result"


def test_a_young_broker_serves_who_names_one_at_once(young: Scenario) -> None:
    young.join("w1", "droid")
    ask = young.ask("arm", policy="droid")
    young.finish("w1")
    assert young.outcome(ask) == "result"


def test_too_little_time_for_a_young_broker_is_said_to_be_that(young: Scenario) -> None:
    young.join("w1", "droid")
    ask = young.ask("arm", deadline_s=NAMELESS_GRACE_S / 2)
    young.after(NAMELESS_GRACE_S)
    assert young.outcome(ask) == "worker_loading"
    assert "has just started" in young.message(ask)


def test_a_waiting_request_does_not_keep_the_core_awake(story: Scenario) -> None:
    story.hello("w1", "aloha")
    story.ask("arm", policy="aloha", deadline_s=60.0)
    before = story.wakes
    story.after(5.0)
    assert story.wakes - before < 60  # ten heartbeats a second


def test_a_name_stays_known_when_its_workers_are_gone(story: Scenario) -> None:
    story.join("w1", "aloha")
    story.die("w1")
    ask = story.ask("arm", policy="aloha")
    assert story.outcome(ask) == "waiting"
    story.join("w2", "aloha")
    story.finish("w2")
    assert story.outcome(ask) == "result"


def test_no_name_is_needed_where_one_is_served(story: Scenario) -> None:
    story.join("w1", "aloha")
    ask = story.ask("arm")
    story.finish("w1")
    assert story.outcome(ask) == "result"


def test_no_name_is_ambiguous_where_two_are_served(story: Scenario) -> None:
    story.join("w1", "aloha")
    story.join("w2", "droid")
    ask = story.ask("arm")
    assert story.outcome(ask) == "ambiguous_policy"
    assert "aloha, droid are served" in story.message(ask)


def test_a_name_that_lost_its_workers_a_minute_ago_is_no_longer_meant(story: Scenario) -> None:
    story.join("w1", "aloha")
    story.join("w2", "droid")
    story.die("w1")
    story.after(FORGOTTEN_S - 0.1)  # a worker that crashed would be back by now
    assert story.outcome(story.ask("arm")) == "ambiguous_policy"
    story.after(0.2)
    ask = story.ask("arm")
    story.finish("w2")
    assert story.outcome(ask) == "result"
    assert story.request("arm", "metadata")["kind"] == "result"
    # But whoever names it is not told that it never was.
    assert story.outcome(story.ask("other", policy="aloha", deadline_s=1.0)) == "waiting"


def test_a_name_that_is_served_again_makes_no_name_ambiguous_again(story: Scenario) -> None:
    story.join("w1", "aloha")
    story.join("w2", "droid")
    story.die("w1")
    story.after(FORGOTTEN_S + 0.1)
    story.hello("w3", "aloha")
    assert story.outcome(story.ask("arm")) == "ambiguous_policy"


@pytest.mark.parametrize(("names", "outcome"), [(1, "waiting"), (2, "ambiguous_policy")])
def test_no_name_where_nobody_is_left(story: Scenario, names: int, outcome: str) -> None:
    for number in range(names):
        story.join(f"w{number}", f"policy {number}")
        story.die(f"w{number}")
    story.after(FORGOTTEN_S + 0.1)
    assert story.outcome(story.ask("arm")) == outcome


def test_one_of_several_workers_that_leaves_changes_nothing(story: Scenario) -> None:
    story.join("w1", "aloha")
    story.join("w2", "aloha")
    story.join("w3", "droid")
    story.die("w1")
    story.after(FORGOTTEN_S + 0.1)
    assert story.outcome(story.ask("arm")) == "ambiguous_policy"


def test_no_name_waits_for_the_first_to_be_served(story: Scenario) -> None:
    ask = story.ask("arm")
    story.hello("w1", "aloha")
    assert story.outcome(ask) == "waiting"
    story.ready("w1")
    story.finish("w1")
    assert story.outcome(ask) == "result"


def test_names_without_end_fit_into_an_answer(story: Scenario) -> None:
    for number in range(200):
        story.hello(f"w{number}", f"{'policy' * 20}{number:04}")
    for ask in (story.ask("arm"), story.ask("arm", policy="unheard of")):
        assert 0 < len(story.message(ask)) < 2048


@pytest.mark.parametrize("policy", [{}, {"policy": "aloha"}])
def test_metadata_that_may_still_come_is_told_from_what_never_will(
    young: Scenario, policy: dict[str, str]
) -> None:
    young.join("w1", "droid")
    not_yet = young.request("arm", "metadata", **policy)
    assert issubclass(errors.BY_CODE[not_yet["code"]], errors.Unavailable)
    assert 0 < not_yet["retry_after_ms"] <= 500.0
    young.join("w2", "libero")
    young.after(GRACE_S)
    never = young.request("arm", "metadata", **policy)
    assert issubclass(errors.BY_CODE[never["code"]], errors.BadRequest)
    assert "retry_after_ms" not in never


def test_metadata_may_be_asked_for_again_while_nobody_serves(story: Scenario) -> None:
    answer = story.request("arm", "metadata")
    assert (answer["code"], answer["retry_after_ms"] > 0) == ("no_worker", True)
    story.hello("w1", "aloha")  # it says what it will serve before it has loaded it
    assert story.request("arm", "metadata")["kind"] == "result"


def test_metadata_is_the_workers_own(story: Scenario) -> None:
    assert story.request("arm", "metadata")["code"] == "no_worker"
    story.join("w1", "aloha")
    assert story.request("arm", "metadata")["kind"] == "result"
    story.die("w1")
    assert story.request("arm", "metadata", policy="aloha")["kind"] == "result"
    assert story.request("arm", "metadata", policy="alhoa")["code"] == "unknown_policy"
    story.join("w2", "droid")
    assert story.request("arm", "metadata")["code"] == "ambiguous_policy"


def test_who_asks_for_an_expected_policy_waits_for_its_first_worker() -> None:
    story = Scenario(BrokerConfig(policies=["aloha"]))
    named, nameless = story.ask("arm", policy="aloha", deadline_s=60.0), story.ask("other")
    story.after(1.0)
    assert story.outcome(named) == story.outcome(nameless) == "waiting"
    story.join("w1", "aloha")
    story.finish("w1")
    story.finish("w1")
    assert story.outcome(named) == story.outcome(nameless) == "result"
    assert story.outcome(story.ask("arm", policy="alhoa")) == "unknown_policy"


def test_expected_policies_make_no_name_ambiguous_whoever_serves() -> None:
    story = Scenario(BrokerConfig(policies=["aloha", "droid"]))
    assert story.outcome(story.ask("arm")) == "ambiguous_policy"
    story.join("w1", "droid")
    assert story.outcome(story.ask("arm")) == "ambiguous_policy"


def test_metadata_of_an_expected_policy_may_be_asked_for_again() -> None:
    story = Scenario(BrokerConfig(policies=["aloha"]))
    answer = story.request("arm", "metadata", policy="aloha")
    assert (answer["code"], answer["retry_after_ms"] > 0) == ("no_worker", True)
