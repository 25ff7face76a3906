"""The rows of the failure table that the core decides."""

from __future__ import annotations

import pytest

from broker.config import BrokerConfig, Timers
from broker.events import ConnectionLost
from broker.leases import MAX_ATTEMPTS
from broker.states import WorkerState
from broker.workers import Worker
from tests.broker.scenario import EPOCH, Ask, Scenario

SUSPECT_S = Timers().suspect_ms / 1e3
LEASE_S = Timers().shortest_lease_ms / 1e3  # of the scenario's fast workers


@pytest.fixture
def story() -> Scenario:
    return Scenario()


def given_to(story: Scenario, worker: str) -> Ask:
    """A request that `worker`, the only free one, has in hand."""
    ask = story.ask("arm")
    assert story.work(worker) == [ask.id]
    return ask


def _worker(story: Scenario, name: str) -> Worker:
    return story.core.pool.by_id[name.encode()]


# A worker dies idle.


def test_a_lost_connection_is_only_a_hint(story: Scenario) -> None:
    story.join("w1")
    story.told["w1"].clear()
    story.tell(ConnectionLost((b"w1", b"nobody we know")))
    assert [header["kind"] for header in story.told["w1"]] == ["who"]
    given_to(story, "w1")


@pytest.mark.parametrize(("socket_hears_s", "by_s"), [(0.001, 0.003), (0.008, 0.013)])
def test_a_death_that_the_monitor_told_before_the_socket_is_soon_proven(
    story: Scenario, socket_hears_s: float, by_s: float
) -> None:
    story.join("w1")
    ask = given_to(story, "w1")
    story.join("w2")
    story.after(0.05)
    story.tell(ConnectionLost((b"w1",)))  # the probe still finds a way out
    story.after(socket_hears_s)
    story.gone.add("w1")
    story.after(by_s - socket_hears_s)
    assert story.work("w2") == [ask.id]
    wakes = story.wakes
    story.after(1.0)  # and from then on there are no more heartbeats than ever
    assert story.wakes - wakes <= 12


def test_an_idle_worker_that_died_is_never_given_work(story: Scenario) -> None:
    story.join("w1")
    story.join("w2")
    story.die("w1")
    asks = [story.ask("a"), story.ask("b")]
    assert story.work("w2") == [asks[0].id]
    assert story.work("w1") == []
    assert story.core.counters["workers lost"] == 1


def test_work_that_cannot_be_delivered_goes_to_another_at_once(story: Scenario) -> None:
    story.join("w1")
    story.gone.add("w1")  # and nobody has noticed yet
    story.join("w2", inference_ms=500.0)
    ask = story.ask("arm")
    assert story.work("w2") == [ask.id]


# A worker dies in the middle.


def test_the_request_of_a_dead_worker_moves_at_once(story: Scenario) -> None:
    story.join("w1")
    ask = given_to(story, "w1")
    story.join("w2")
    story.die("w1")
    assert story.work("w2") == [ask.id]
    assert story.given[-1][1]["attempt"] == 2
    story.finish("w2")
    assert story.outcome(ask) == "result"


def test_a_request_does_not_kill_all_workers(story: Scenario) -> None:
    names = [f"w{number}" for number in range(4)]
    for name in names:
        story.join(name)
    ask = story.ask("arm")
    for _ in range(MAX_ATTEMPTS):
        (victim,) = [name for name in names if story.work(name)]
        story.die(victim)
    assert story.outcome(ask) == "worker_lost"
    assert "2 workers were lost with this request in hand" in story.message(ask)
    assert story.core.counters["workers lost"] == MAX_ATTEMPTS


def test_the_request_of_a_dead_worker_waits_for_one_to_come(story: Scenario) -> None:
    story.join("w1")
    ask = given_to(story, "w1")
    story.die("w1")
    assert story.outcome(ask) == "waiting"
    story.after(1.0)
    story.join("w2")
    story.finish("w2")
    assert story.outcome(ask) == "result"


def test_a_newer_observation_wins_over_one_that_comes_back(story: Scenario) -> None:
    story.join("w1")
    older = given_to(story, "w1")
    newer = story.ask("arm")
    story.die("w1")
    assert story.outcome(older) == "superseded"
    assert story.outcome(newer) == "waiting"


def test_goodbye_is_as_good_as_death(story: Scenario) -> None:
    story.join("w1")
    ask = given_to(story, "w1")
    story.join("w2")
    story.tell_from("w1", "goodbye", message="it was stopped")
    assert story.work("w2") == [ask.id]


# What was on its way is lost with a connection that was made again at once.


def test_a_heartbeat_that_proves_a_loss_moves_the_request(story: Scenario) -> None:
    story.join("w1")
    ask = given_to(story, "w1")
    story.forget("w1")
    story.beat("w1")  # it has not heard a heartbeat since: proves nothing
    assert story.core.counters["leases lost"] == 0
    story.after(0.15)  # now it has
    assert story.core.counters["leases lost"] == 1
    assert story.work("w1") == [ask.id]  # the only one there is
    story.finish("w1")
    assert story.outcome(ask) == "result"


def test_a_heartbeat_proves_nothing_about_work_sent_after_the_one_it_echoes(
    story: Scenario,
) -> None:
    story.join("w1")
    story.after(0.25)
    heard = story.beats["w1"]
    ask = given_to(story, "w1")
    story.beat("w1", n=heard, ids=[])  # sent before the request reached it
    assert story.core.counters["leases lost"] == 0
    story.finish("w1")
    assert story.outcome(ask) == "result"


# A worker hangs: heartbeats go on, answers do not.


def test_an_overdue_request_moves_and_its_worker_gets_nothing_more(story: Scenario) -> None:
    story.join("w1")
    ask = given_to(story, "w1")
    story.join("w2")
    story.after(LEASE_S - 0.01)
    assert story.work("w2") == []
    story.after(0.02)
    assert story.work("w2") == [ask.id]
    assert story.core.counters["leases overrun"] == 1
    story.finish("w2")
    assert story.outcome(ask) == "result"
    after = [story.ask("b"), story.ask("c")]
    assert story.work("w2") == [after[0].id]  # and the other waits rather than go to w1
    assert story.work("w1") == [ask.id]


def test_the_answer_of_an_overdue_worker_is_taken_if_it_comes_first(story: Scenario) -> None:
    story.join("w1")
    ask = given_to(story, "w1")
    story.join("w2")
    story.after(LEASE_S + 0.1)
    story.finish("w1")
    assert story.outcome(ask) == "result"
    assert ask.answers[0][1]["timing"]["queue_ms"] == 0.0
    story.finish("w2")
    assert story.core.counters["dropped late reply"] == 1


def test_the_answer_of_an_overdue_worker_is_taken_while_nobody_else_is_free(
    story: Scenario,
) -> None:
    story.join("w1")
    ask = given_to(story, "w1")
    story.after(LEASE_S + 1.0)
    story.finish("w1")
    assert story.outcome(ask) == "result"
    given_to(story, "w1")  # and so it is trusted again


def test_a_suspect_is_cleared_when_its_overdue_answer_came(story: Scenario) -> None:
    story.join("w1", slots=2)
    first, second = story.ask("a"), story.ask("b")
    story.after(LEASE_S + 0.1)
    story.finish("w1")
    blocked = story.ask("c")
    assert story.work("w1") == [second.id]  # one is still overdue
    story.finish("w1")
    assert story.work("w1") == [blocked.id]
    assert story.outcome(first) == story.outcome(second) == "result"


def test_the_last_attempt_runs_to_the_deadline(story: Scenario) -> None:
    story.join("w1")
    ask = story.ask("arm", deadline_s=5.0)
    story.join("w2")
    story.after(4.0)
    assert story.work("w1") == story.work("w2") == [ask.id]
    story.after(2.0)
    assert story.outcome(ask) == "deadline_exceeded"
    assert "a worker had it for" in story.message(ask)


def test_a_hang_is_noticed_though_requests_expire_before_their_leases(story: Scenario) -> None:
    story.join("w1", slots=4)
    asks = []
    for number in range(3):
        asks.append(story.ask(f"robot {number}", deadline_s=LEASE_S / 2))
        story.after(LEASE_S + 0.01)
    assert [story.outcome(ask) for ask in asks] == [
        "deadline_exceeded",  # a worker had it, and then no worker was to be trusted
        "no_worker",
        "no_worker",
    ]
    assert len(story.given) == 1
    assert _worker(story, "w1").state is WorkerState.SUSPECT
    assert story.core.counters["leases overrun"] == 1
    story.finish("w1")  # it has come to itself again
    given_to(story, "w1")


def test_a_hang_in_the_last_attempt_is_noticed(story: Scenario) -> None:
    story.join("w1")
    ask = given_to(story, "w1")
    story.join("w2", slots=2)
    story.die("w1")
    assert story.work("w2") == [ask.id]
    story.after(LEASE_S + 0.01)
    assert _worker(story, "w2").state is WorkerState.SUSPECT
    blocked = story.ask("leg")
    assert story.work("w2") == [ask.id]
    story.finish("w2")  # and the request itself could go on until its deadline
    assert story.outcome(ask) == "result"
    assert story.work("w2") == [blocked.id]


def test_a_hang_is_noticed_though_another_worker_has_answered(story: Scenario) -> None:
    story.join("w1", slots=2)
    ask = story.ask("arm")
    story.after(LEASE_S + 0.01)  # overdue, and nobody else is free: the same one must wait
    story.join("w2", slots=2)
    story.finish("w1")
    assert story.outcome(ask) == "result"
    assert story.work("w2") == [ask.id]
    story.after(LEASE_S + 0.01)
    assert _worker(story, "w2").state is WorkerState.SUSPECT


def test_a_slow_policy_is_not_taken_for_a_hang(story: Scenario) -> None:
    story.join("w1", inference_ms=2000.0)
    story.join("w2", inference_ms=2000.0)
    ask = story.ask("arm")
    story.after(7.0)
    assert len(story.given) == 1
    story.finish(story.given[0][0])
    assert story.outcome(ask) == "result"


def test_nothing_is_known_of_a_worker_that_does_not_say_how_fast_it_is(story: Scenario) -> None:
    story.hello("w1")
    story.tell_from("w1", "ready", slots=1)
    story.slots["w1"] = 1
    ask = story.ask("arm", deadline_s=30.0)
    story.after(9.0)
    assert _worker(story, "w1").state is WorkerState.READY
    story.finish("w1")
    assert story.outcome(ask) == "result"
    assert _worker(story, "w1").mean_s == pytest.approx(9.0)


def test_a_refusal_does_not_tell_how_fast_a_worker_is(story: Scenario) -> None:
    story.join("w1", inference_ms=600.0)
    for _ in range(5):
        story.ask("arm")
        story.finish("w1", "failure", code="bad_observation", message="no")
    assert _worker(story, "w1").mean_s == pytest.approx(0.6)


def test_a_worker_that_was_stopped_for_long_is_not_taken_for_slow(story: Scenario) -> None:
    story.join("w1", inference_ms=30.0)
    story.ask("arm", deadline_s=3600.0)
    story.after(600.0)
    story.finish("w1")
    assert _worker(story, "w1").mean_s <= 2 * LEASE_S


def test_what_the_broker_slept_is_not_the_time_of_a_worker(story: Scenario) -> None:
    story.join("w1", inference_ms=30.0)
    for _ in range(3):
        ask = story.ask("arm", deadline_s=3600.0)
        story.now += 100.0  # the clock jumps, or the process was stopped
        story.after(0.05)
        story.finish("w1")
        assert story.outcome(ask) == "result"
    assert _worker(story, "w1").mean_s <= 0.15 + Timers().heartbeat_ms / 1e3


# A worker falls silent.


def test_a_silent_worker_gets_no_work_until_it_is_heard(story: Scenario) -> None:
    story.join("w1")
    story.silent.add("w1")
    story.after(SUSPECT_S + 0.3)
    ask = story.ask("arm")
    assert story.work("w1") == []
    story.silent.clear()
    story.after(0.2)
    assert story.work("w1") == [ask.id]


def test_silence_is_no_fault_while_a_worker_warms_up(story: Scenario) -> None:
    story.hello("w1")
    story.silent.add("w1")
    story.after(60.0)
    ask = story.ask("arm")
    story.ready("w1")
    assert story.work("w1") == [ask.id]


def test_a_result_counts_as_a_sign_of_life(story: Scenario) -> None:
    story.join("w1")
    story.silent.add("w1")
    ask = given_to(story, "w1")
    story.after(SUSPECT_S + 0.3)
    story.finish("w1")
    assert story.outcome(ask) == "result"
    given_to(story, "w1")


# Draining.


def test_a_draining_worker_finishes_what_it_has_and_gets_nothing_more(story: Scenario) -> None:
    story.join("w1", slots=2)
    ask = story.ask("a")
    story.beat("w1", state="draining")
    blocked = story.ask("b")
    story.after(0.5)
    assert story.work("w1") == [ask.id]
    story.finish("w1")
    assert story.outcome(ask) == "result"
    assert story.outcome(blocked) == "waiting"


# Fencing.


@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1, None])
def test_nothing_of_another_epoch_is_believed(story: Scenario, epoch: int | None) -> None:
    story.join("w1")
    ask = given_to(story, "w1")
    id, attempt = story.hands["w1"][0]
    story.told["w1"].clear()
    story.tell_from("w1", "result", id=id, attempt=attempt, epoch=epoch)
    story.tell_from("w1", "heartbeat", n=99, ids=[], epoch=epoch)
    story.tell_from("w1", "goodbye", epoch=epoch)
    assert story.outcome(ask) == "waiting"
    assert story.work("w1") == [ask.id]
    assert [header["kind"] for header in story.told["w1"]] == ["who", "who"]
    assert story.core.counters["dropped result"] == 1


def test_a_worker_that_a_new_broker_does_not_know_is_asked_who_it_is(story: Scenario) -> None:
    story.beat("old", epoch=EPOCH - 1)
    assert [header["kind"] for header in story.told["old"]] == ["who"]
    story.join("old")
    assert story.told["old"][-1]["kind"] == "welcome"
    assert story.told["old"][-1]["epoch"] == EPOCH
    given_to(story, "old")


def test_a_worker_that_says_hello_again_keeps_what_it_has(story: Scenario) -> None:
    story.join("w1")
    ask = given_to(story, "w1")
    story.hello("w1")
    story.ready("w1")
    story.finish("w1")
    assert story.outcome(ask) == "result"


# Who is let in.


@pytest.mark.parametrize("difference", [{"digest": "other"}, {"horizon": 10}])
def test_workers_of_one_name_are_alike(story: Scenario, difference: dict[str, object]) -> None:
    story.join("w1")
    story.hello("w2", **difference)  # type: ignore[arg-type]
    (refusal,) = story.told["w2"]
    assert (refusal["kind"], refusal["code"]) == ("error", "worker_refused")
    assert "name=" in refusal["message"]
    story.ready("w2")
    story.ask("a")
    story.ask("b")
    assert story.work("w2") == []


def test_a_name_may_change_its_policy_when_its_last_worker_is_gone(story: Scenario) -> None:
    story.join("w1")
    story.die("w1")
    story.hello("w2", digest="other")
    story.ready("w2")
    given_to(story, "w2")


@pytest.mark.parametrize("missing", ["policy", "incarnation", "payload"])
def test_half_a_hello(story: Scenario, missing: str) -> None:
    header = {"policy": "p", "incarnation": bytes(16)}
    header.pop(missing, None)
    payload = () if missing == "payload" else (b"metadata",)
    story.tell_from("w1", "hello", payload=payload, **header)
    assert story.told["w1"][0]["code"] == "protocol_error"
    story.join("w1")
    given_to(story, "w1")


def test_no_more_workers_than_the_limit() -> None:
    config = BrokerConfig()
    config.limits.max_workers = 2
    story = Scenario(config)
    for name in ("w1", "w2", "w3"):
        story.hello(name)
    assert story.told["w3"][0]["code"] == "worker_refused"
    assert "limits.max_workers" in story.told["w3"][0]["message"]
    story.die("w1")
    story.hello("w3")
    assert story.told["w3"][1]["kind"] == "welcome"
