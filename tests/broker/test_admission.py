"""What is refused at once, why, and when to try again; and what a deadline's end says."""

from __future__ import annotations

from typing import Any

import pytest

from broker.config import BrokerConfig
from tests.broker.scenario import Scenario


def story_with(**limits: Any) -> Scenario:
    config = BrokerConfig()
    for name, value in limits.items():
        setattr(config.limits, name, value)
    return Scenario(config)


@pytest.fixture
def story() -> Scenario:
    return Scenario()


def test_too_many_requests() -> None:
    story = story_with(max_requests=2)
    kept = [story.ask("a"), story.ask("b")]
    refused = story.ask("c")
    assert story.outcome(refused) == "overloaded"
    assert "limits.max_requests" in story.message(refused)
    assert story.retry_after_s(refused) > 0
    assert [story.outcome(ask) for ask in kept] == ["waiting"] * 2
    story.join("w1")
    story.finish("w1")
    assert story.outcome(story.ask("c")) == "waiting"


def test_too_many_bytes_in_all() -> None:
    story = story_with(max_total_bytes=1000)
    story.ask("a", size=900)
    refused = story.ask("b", size=101)
    assert story.outcome(refused) == "overloaded"
    assert "limits.max_total_bytes" in story.message(refused)
    assert story.outcome(story.ask("b", size=100)) == "waiting"
    assert story.outcome(story.ask("c", size=1)) == "overloaded"


def test_one_robot_has_its_share_and_others_theirs() -> None:
    story = story_with(max_requests_per_robot=2)
    for number in range(3):
        story.join(f"w{number}")
    asks = [story.ask("flood", session=f"{number}") for number in range(3)]
    assert [story.outcome(ask) for ask in asks] == ["waiting", "waiting", "overloaded"]
    assert "limits.max_requests_per_robot" in story.message(asks[2])
    assert story.retry_after_s(asks[2]) > 0
    story.ask("arm")  # and there is a worker left for it
    assert {header["id"].client.rstrip() for _, header in story.given} == {b"flood", b"arm"}


def test_by_default_a_flooding_robot_has_two_requests_in_hand(story: Scenario) -> None:
    for number in range(10):
        story.ask("flood", session=f"{number}")
    assert story.core.in_hand == 2


def test_a_newer_observation_takes_the_olders_place_at_the_limit() -> None:
    story = story_with(max_requests_per_robot=2, max_bytes_per_robot=200, max_bytes=100)
    story.join("w1")
    computed, waits, newer = (story.ask("arm", size=100) for _ in range(3))
    assert [story.outcome(ask) for ask in (computed, waits)] == ["waiting", "superseded"]
    assert story.outcome(newer) == "waiting"
    assert story.outcome(story.ask("arm", session="another")) == "overloaded"
    story.finish("w1")
    story.finish("w1")
    assert story.outcome(newer) == "result"
    assert story.core.in_hand == 0


def test_what_another_robot_has_waiting_gives_no_room() -> None:
    story = story_with(max_requests=1)
    first = story.ask("arm")
    refused = story.ask("other")
    assert [story.outcome(ask) for ask in (first, refused)] == ["waiting", "overloaded"]


def test_too_many_bytes_in_one() -> None:
    story = story_with(max_bytes=1000)
    refused = story.ask("a", size=1001)
    assert story.outcome(refused) == "message_too_large"
    assert "1001 bytes, 1000 are allowed" in story.message(refused)
    assert story.outcome(story.ask("a", size=1000)) == "waiting"


def test_bytes_are_given_back_whatever_becomes_of_a_request() -> None:
    story = story_with(max_total_bytes=1000)
    story.join("w1")
    for end in ("result", "failure", "expired", "superseded"):
        ask = story.ask("arm", size=900, deadline_s=5.0)
        if end in ("result", "failure"):
            story.finish("w1", end)
        elif end == "expired":
            story.after(6.0)
            story.finish("w1")
        else:
            story.finish("w1")
        assert story.outcome(ask) != "waiting"
    assert story.core.in_hand == 0
    assert story.outcome(story.ask("arm", size=1000)) == "waiting"


def test_a_turn_that_would_come_too_late_is_refused_at_once(story: Scenario) -> None:
    story.join("w1", inference_ms=200.0)
    for number in range(11):  # one is taken, ten wait
        story.ask(f"robot {number}", priority=0)
    refused = story.ask("hasty", deadline_s=1.0)
    assert story.outcome(refused) == "overloaded"
    assert "10 requests are before it" in story.message(refused)
    assert story.retry_after_s(refused) == pytest.approx(10 * 0.2)
    assert story.outcome(story.ask("patient", deadline_s=5.0)) == "waiting"


@pytest.mark.parametrize("urgent", [{"priority": 0, "deadline_s": 1.0}, {"deadline_s": 1.0}])
def test_requests_that_would_be_served_later_are_no_reason_to_refuse(
    story: Scenario, urgent: dict[str, Any]
) -> None:
    story.join("w1", inference_ms=200.0)
    for number in range(11):
        story.ask(f"robot {number}", deadline_s=9.0)
    ask = story.ask("urgent", **urgent)
    assert story.outcome(ask) == "waiting"
    story.finish("w1")
    story.finish("w1")
    assert story.outcome(ask) == "result"


def test_of_the_same_class_those_with_an_earlier_deadline_are_before_it(story: Scenario) -> None:
    story.join("w1", inference_ms=200.0)
    for number in range(6):  # one is taken, five wait
        story.ask(f"early {number}", deadline_s=2.0)
    for number in range(6):
        story.ask(f"late {number}", deadline_s=9.0)
    assert story.outcome(story.ask("arm", deadline_s=1.9)) == "waiting"
    refused = story.ask("leg", deadline_s=2.1, priority=2)
    assert "12 requests are before it" in story.message(refused)


def test_an_answer_that_would_come_too_late_is_refused_at_once(story: Scenario) -> None:
    story.join("w1", inference_ms=200.0)
    story.ask("taken")
    story.ask("waits", deadline_s=0.25)
    refused = story.ask("arm", deadline_s=0.3)  # its turn comes in time, but no answer does
    assert story.outcome(refused) == "overloaded"
    assert "1 requests are before it" in story.message(refused)
    assert story.outcome(story.ask("arm", deadline_s=0.5)) == "waiting"


def test_what_cannot_end_in_time_makes_room_for_what_can(story: Scenario) -> None:
    story.join("w1", inference_ms=200.0)
    story.ask("taken")
    late, in_time = story.ask("late", deadline_s=0.3), story.ask("arm", deadline_s=0.9)
    story.now += 0.2
    story.finish("w1")
    assert story.outcome(late) == "overloaded"
    assert "end after its deadline" in story.message(late)
    assert story.retry_after_s(late) > 0
    assert [header["id"].client.rstrip() for _, header in story.given] == [b"taken", b"arm"]
    story.finish("w1")
    assert story.outcome(in_time) == "result"
    assert story.core.in_hand == 0


def test_where_nobody_else_waits_even_a_late_one_is_tried(story: Scenario) -> None:
    story.join("w1", inference_ms=200.0)
    story.ask("taken")
    late = story.ask("late", deadline_s=0.3)
    story.now += 0.2
    story.finish("w1")
    story.now += 0.05  # faster than it was expected to be
    story.finish("w1")
    assert story.outcome(late) == "result"


def test_the_observation_that_it_takes_the_place_of_is_not_before_it(story: Scenario) -> None:
    story.join("w1", inference_ms=400.0)
    story.ask("taken")
    story.ask("other", deadline_s=0.9)
    assert story.outcome(story.ask("arm", deadline_s=0.9)) == "waiting"
    newer = story.ask("arm", deadline_s=1.0)
    assert story.outcome(newer) == "waiting"


def test_an_observation_whose_deadline_has_passed_is_never_computed(story: Scenario) -> None:
    story.join("w1")
    late = story.ask("arm", deadline_s=0.0)
    assert story.outcome(late) == "deadline_exceeded"
    story.ask("a")
    waited = story.ask("b", deadline_s=0.1)
    story.now += 0.1  # time passes, and the first thing that the core hears is a free slot
    story.finish("w1")
    assert story.outcome(waited) == "deadline_exceeded"
    assert [header["id"].client.rstrip() for _, header in story.given] == [b"a"]


def test_a_request_without_a_deadline_gets_the_default() -> None:
    story = story_with(default_deadline_s=3.0)
    asked_at = story.now
    ask = story.ask("arm")
    story.after(10.0)
    assert story.took_s(ask, asked_at) == pytest.approx(3.0, abs=0.01)


def test_a_request_without_a_body(story: Scenario) -> None:
    assert story.request("arm", "infer")["code"] == "protocol_error"
    assert story.outcome(story.ask("arm", size=0)) == "waiting"  # empty: the worker will judge


# The end of a deadline.


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        ("busy", "deadline_exceeded", "all workers were busy"),
        ("warming", "worker_loading", "still loading"),
        ("dead", "no_worker", "start one"),
        ("silent", "no_worker", "look at its log"),
        ("draining", "no_worker", "no live worker"),
    ],
)
def test_why_nobody_answered_in_time(story: Scenario, state: str, code: str, words: str) -> None:
    story.hello("w1")
    if state != "warming":
        story.ready("w1")
    if state == "busy":
        story.ask("other", deadline_s=60.0)
    elif state == "dead":
        story.die("w1")
    elif state == "silent":
        story.silent.add("w1")
        story.after(1.5)
    elif state == "draining":
        story.beat("w1", state="draining")
    asked_at = story.now
    ask = story.ask("arm", deadline_s=0.2 if state == "busy" else 3.0)
    story.after(4.0)
    assert story.outcome(ask) == code
    assert words in story.message(ask)
    assert story.took_s(ask, asked_at) <= 3.0 + 0.1


def test_a_broker_that_nobody_serves(story: Scenario) -> None:
    ask = story.ask("arm", deadline_s=1.0)
    story.after(1.1)
    assert story.outcome(ask) == "no_worker"


# Stopping.


def test_a_stopping_broker_tells_those_that_wait_and_finishes_the_rest(story: Scenario) -> None:
    story.join("w1")
    leased, waiting = story.ask("a"), story.ask("b")
    story.stop()
    assert story.outcome(waiting) == "draining"
    refused = story.ask("c")
    assert story.outcome(refused) == "draining"
    assert story.outcome(leased) == "waiting"
    # They may ask again soon, of this port's next broker, and not so often that it is a burden.
    for ask in (waiting, refused):
        assert 0.1 <= story.retry_after_s(ask) <= 0.5
    story.after(5.0)  # overdue is not lost
    story.finish("w1")
    assert story.outcome(leased) == "result"
    assert story.core.in_hand == 0


def test_nobody_is_left_without_an_answer_when_a_stopping_broker_can_wait_no_more(
    story: Scenario,
) -> None:
    story.join("w1")
    overdue = story.ask("a", policy="p")
    story.after(1.0)
    story.join("w2", "q")
    leased = story.ask("b", policy="q")
    story.stop()
    assert story.outcome(overdue) == story.outcome(leased) == "waiting"
    story.stop()
    assert story.outcome(overdue) == story.outcome(leased) == "draining"
