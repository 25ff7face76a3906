"""Who gets which request, in what order, and that it is answered."""

from __future__ import annotations

import pytest

from broker.events import Command, RobotMessage, ToWorker
from client.wire import MAX_CLIENT, MAX_STAGES, RequestId, decode_header, encode_header
from tests.broker.scenario import Scenario


@pytest.fixture
def story() -> Scenario:
    return Scenario()


def test_the_whole_way(story: Scenario) -> None:
    story.join("w1")
    ask = story.ask("arm", session="s", deadline_s=1.0)
    ((worker, header),) = story.given
    assert worker == "w1"
    assert (header["kind"], header["id"], header["attempt"]) == ("infer", ask.id, 1)
    assert header["epoch"] == story.epoch
    assert header["deadline_ms"] == pytest.approx(1000.0)
    story.after(0.04)
    story.finish("w1", timing={"infer_ms": 30.0})
    assert story.outcome(ask) == "result"
    timing = ask.answers[0][1]["timing"]
    assert timing == pytest.approx({"infer_ms": 30.0, "queue_ms": 0.0, "worker_ms": 40.0})
    assert story.core.in_hand == 0


def test_a_request_waits_for_a_slot_and_is_told_how_long(story: Scenario) -> None:
    story.join("w1")
    first, second = story.ask("a"), story.ask("b")
    story.after(0.1)
    assert story.work("w1") == [first.id]
    story.finish("w1")
    assert story.work("w1") == [second.id]
    story.after(0.05)
    story.finish("w1")
    timing = second.answers[0][1]["timing"]
    assert timing["queue_ms"] == pytest.approx(100.0)
    assert timing["worker_ms"] == pytest.approx(50.0)


def test_a_failure_reaches_the_robot_by_its_code(story: Scenario) -> None:
    story.join("w1")
    for code in ("bad_observation", "policy_failed", "deadline_exceeded"):
        ask = story.ask("arm")
        story.finish("w1", "failure", code=code, message="state: 14 numbers are expected")
        assert story.outcome(ask) == code
        assert story.message(ask) == "state: 14 numbers are expected"


def test_idle_workers_first_then_free_slots_never_more(story: Scenario) -> None:
    story.join("w1", slots=2)
    story.join("w2", slots=2)
    asks = [story.ask(f"robot {number}") for number in range(6)]
    assert [len(story.work(name)) for name in ("w1", "w2")] == [2, 2]
    assert {name for name, _ in story.given[:2]} == {"w1", "w2"}
    while story.core.in_hand:
        story.after(0.01)
        story.finish("w1" if story.work("w1") else "w2")
    assert [story.outcome(ask) for ask in asks] == ["result"] * 6


def test_a_slow_worker_gets_less(story: Scenario) -> None:
    story.join("fast", slots=4, inference_ms=10.0)
    story.join("slow", slots=4, inference_ms=100.0)
    for number in range(5):
        story.ask(f"robot {number}")
    assert len(story.work("fast")) == 4
    assert len(story.work("slow")) == 1


def test_each_policy_has_its_own_workers(story: Scenario) -> None:
    story.join("w1", "aloha")
    story.join("w2", "droid")
    for policy, worker in (("droid", "w2"), ("aloha", "w1")):
        ask = story.ask("robot", policy=policy)
        assert story.work(worker) == [ask.id]
        story.finish(worker)
        assert story.outcome(ask) == "result"


def test_priority_classes_then_the_earliest_deadline_then_arrival(story: Scenario) -> None:
    story.join("w1")
    story.ask("first")
    rest = {
        "late": story.ask("late", deadline_s=9.0),
        "early": story.ask("early", deadline_s=3.0),
        "also early": story.ask("also early", deadline_s=3.0),
        "urgent": story.ask("urgent", deadline_s=9.5, priority=0),
        "idle": story.ask("idle", deadline_s=2.5, priority=9),
    }
    for name in ("urgent", "early", "also early", "late", "idle"):
        story.finish("w1")
        assert story.work("w1") == [rest[name].id]


def test_a_newer_observation_takes_the_place_of_one_that_waits(story: Scenario) -> None:
    story.join("w1")
    leased = story.ask("arm")
    older, newer = story.ask("arm"), story.ask("arm")
    assert story.outcome(older) == "superseded"
    assert story.outcome(newer) == "waiting"
    story.finish("w1")
    story.finish("w1")
    assert story.outcome(leased) == story.outcome(newer) == "result"


def test_other_robots_and_other_sessions_are_left_alone(story: Scenario) -> None:
    story.join("w1")
    story.ask("first")
    asks = [story.ask("arm", session="1"), story.ask("arm", session="2"), story.ask("leg")]
    assert [story.outcome(ask) for ask in asks] == ["waiting"] * 3


def test_an_old_observation_that_comes_late_does_not_displace_a_newer_one(story: Scenario) -> None:
    old = story.ask("arm")
    newer = story.ask("arm")
    assert story.outcome(old) == "superseded"
    old.answers.clear()
    story.ask("arm", again=old)
    assert story.outcome(old) == "superseded"
    assert story.outcome(newer) == "waiting"


@pytest.mark.parametrize("leased", [True, False])
def test_the_same_request_again_is_joined_and_answered_once(story: Scenario, leased: bool) -> None:
    story.join("w1")
    busy = None if leased else story.ask("other")
    ask = story.ask("arm")
    story.ask("arm", again=ask)
    story.ask("arm", again=ask)
    assert story.core.counters["joined"] == 2
    if busy is not None:
        story.finish("w1")
    assert len(story.given) == 1 + (busy is not None)
    story.finish("w1")
    assert story.outcome(ask) == "result"  # over the newest route: the scenario checks that


def test_an_answered_request_that_comes_again_is_computed_again(story: Scenario) -> None:
    story.join("w1")
    ask = story.ask("arm")
    story.finish("w1")
    ask.answers.clear()
    story.ask("arm", again=ask)
    story.finish("w1")
    assert story.outcome(ask) == "result"
    assert len(story.given) == 2


def test_what_nobody_asked_or_was_asked_is_dropped(story: Scenario) -> None:
    story.join("w1")
    story.join("w2")
    ask = story.ask("arm")
    (held,) = [name for name in ("w1", "w2") if story.work(name)]
    (other,) = {"w1", "w2"} - {held}
    id, attempt = story.hands[held][0]
    for name, answer in (
        (other, {"id": id, "attempt": attempt}),  # a worker that was not given it
        (held, {"id": id, "attempt": attempt + 1}),
        (held, {"id": RequestId(b"nobody", 1), "attempt": 1}),
        (held, {"id": id}),
        (held, {"attempt": 1}),
        (held, {}),
    ):
        story.tell_from(name, "result", **answer)
    assert story.outcome(ask) == "waiting"
    assert story.core.counters["dropped foreign reply"] == 6
    story.finish(held)
    story.tell_from(held, "result", id=id, attempt=attempt)  # once more
    assert story.outcome(ask) == "result"
    assert story.core.counters["dropped foreign reply"] == 7


def test_reset_drops_what_the_session_has_waiting_and_nothing_else(story: Scenario) -> None:
    story.join("w1")
    leased = story.ask("arm", session="s")
    waiting, others = story.ask("arm", session="s"), story.ask("leg", session="s")
    assert story.request("arm", "reset", session="s")["kind"] == "pong"
    assert story.outcome(waiting) == "cancelled"
    assert story.outcome(leased) == story.outcome(others) == "waiting"


def test_counters_add_up(story: Scenario) -> None:
    story.join("w1")
    story.ask("a")
    story.ask("b", deadline_s=0.2)
    story.ask("c")
    story.ask("c")
    story.finish("w1", "failure", code="policy_failed", message="")
    story.after(0.3)
    story.finish("w1")
    story.finish("w1")
    count = story.core.counters
    final = {state: count[state] for state in ("answered", "failed", "expired", "superseded")}
    assert final == {"answered": 1, "failed": 1, "expired": 1, "superseded": 1}
    assert count["accepted"] == sum(final.values())


def test_what_robot_and_worker_say_of_memory_is_passed_on(story: Scenario) -> None:
    story.join("w1")
    ask = story.ask("arm", host=b"h" * 8, memory=b"reference")
    ((_, header),) = story.given
    assert (header["host"], header["memory"]) == (b"h" * 8, b"reference")
    story.finish("w1", host=b"h" * 8)
    assert ask.answers[0][1]["host"] == b"h" * 8
    story.ask("arm")
    assert not {"host", "memory"} & set(story.given[-1][1])


def test_a_robot_whose_memory_cannot_be_reached_may_ask_again_by_bytes(story: Scenario) -> None:
    story.join("w1")
    ask = story.ask("arm", memory=b"reference")
    story.finish("w1", "failure", code="memory_unreachable", message="no")
    assert story.outcome(ask) == "memory_unreachable"
    ask.answers.clear()
    del ask.header["memory"]
    story.ask("arm", again=ask)
    story.finish("w1")
    assert story.outcome(ask) == "result"


def test_a_robot_without_an_id_whose_routing_id_is_long() -> None:
    """Its requests are named shortly: a worker's heartbeat has to name all that are in hand."""
    story = Scenario()
    story.join("w1", slots=3)
    commands: list[Command] = []
    for robot in (b"a" * 255, b"a" * 254 + b"b", b"a" * MAX_CLIENT):
        header = {"v": 1, "kind": "infer", "policy": "p"}
        message = RobotMessage(robot, (robot, b""), header, (b"body",))
        commands += story.core.handle(message, story.now)
    given = [each.header["id"] for each in commands if isinstance(each, ToWorker)]
    assert len({id.client for id in given}) == 3
    assert max(len(id.client) for id in given) == MAX_CLIENT


def test_a_worker_of_another_hand_may_tell_as_many_stages_as_fit(story: Scenario) -> None:
    """The broker adds its own, and a client refuses a header that has too many."""
    story.join("w1")
    ask = story.ask("arm")
    story.finish("w1", timing={f"stage {number}": 1.0 for number in range(MAX_STAGES)})
    assert decode_header(encode_header(ask.answers[0][1]))["timing"].keys() >= {"queue_ms"}
