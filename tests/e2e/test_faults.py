"""Processes that die, stop, hang, come late or come back: no request is lost, no robot waits on."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import pytest

from client import errors
from scripts.local.processes import Process
from tests.e2e.stack import WAIT_S, Stack, eventually
from tests.worker.test_connection import close, stranger
from worker.events import BROKEN

QUICKLY_S = 10.0  # a second on a machine with nothing else to do
_BRIEF_S = 1.5  # what is left of it is the broker's to say why there is no answer


def mid_request(stack: Stack, *workers: Process) -> Process:
    """The worker that is inside an inference, once one is."""
    eventually(lambda: any(map(stack.is_inside, workers)), "a worker got the request")
    return next(filter(stack.is_inside, workers))


def two_gates(stack: Stack) -> tuple[Process, Process]:
    """A broker and two workers with gates, ready."""
    stack.broker()
    workers = stack.gate(), stack.gate()
    for worker in workers:
        worker.wait_ready()
    return workers


def test_a_worker_killed_in_the_middle_of_a_request(stack: Stack) -> None:
    workers = two_gates(stack)
    answer = stack.infer({"tag": "mine"})
    victim = mid_request(stack, *workers)
    victim.kill()
    stack.open_gate()
    result = answer.result(WAIT_S)
    assert result["tag"] == "mine"
    (survivor,) = {worker.pid for worker in workers} - {victim.pid}
    assert result["worker"] == survivor


def test_a_worker_whose_device_is_lost_in_the_middle_of_a_request(stack: Stack) -> None:
    stack.broker()
    workers = [stack.staged("FragileDevice", folder=stack.folder) for _ in range(2)]
    for worker in workers:
        worker.wait_ready()
    stack.open_gate()
    result = stack.client().infer({"tag": "mine"})
    lost = int((stack.folder / "lost").read_text())
    assert (result["tag"], result["worker"] == lost) == ("mine", False)
    (victim,) = (worker for worker in workers if worker.pid == lost)
    assert victim.wait(WAIT_S) == BROKEN


def test_a_worker_killed_while_idle_is_never_asked(stack: Stack) -> None:
    first, second = two_gates(stack)
    stack.open_gate()
    client = stack.client()
    first.kill()
    for tag in range(5):
        assert client.infer({"tag": tag})["worker"] == second.pid
    second.kill()
    with pytest.raises(errors.NoWorker, match="no live worker serves staged"):
        client.infer({}, deadline_s=_BRIEF_S)


def test_a_request_that_kills_workers_does_not_kill_them_all(stack: Stack) -> None:
    workers = [*two_gates(stack), stack.gate()]
    workers[2].wait_ready()
    answer = stack.infer({})
    alive = list(workers)
    for _ in range(2):
        victim = mid_request(stack, *alive)
        victim.kill()
        alive.remove(victim)
    with pytest.raises(errors.WorkerLost, match="2 workers were lost"):
        answer.result(WAIT_S)
    stack.open_gate()
    assert stack.client().infer({})["worker"] == alive[0].pid


def test_a_worker_that_is_stopped_and_goes_on(stack: Stack) -> None:
    first, second = two_gates(stack)
    stack.open_gate()
    client = stack.client()
    os.kill(first.pid, signal.SIGSTOP)
    for tag in range(6):
        result = client.infer({"tag": tag})
        assert (result["tag"], result["worker"]) == (tag, second.pid)
    os.kill(first.pid, signal.SIGCONT)
    second.kill()
    assert client.infer({"tag": "again"})["worker"] == first.pid


def test_a_broker_restarted_in_the_middle_of_a_request(stack: Stack) -> None:
    broker = stack.broker()
    worker = stack.gate()
    worker.wait_ready()
    answer = stack.infer({"tag": "mine"})
    mid_request(stack, worker)
    broker.kill()
    stack.broker().wait_ready()
    stack.open_gate()
    assert answer.result(WAIT_S)["tag"] == "mine"


def test_a_broker_restarted_with_smaller_limits(stack: Stack) -> None:
    broker = stack.broker()
    stack.worker("echo").wait_ready()
    sizes = (1_500_000, 6_000_000)  # told so, and hung up on
    robots = [(stack.client(), {"image": np.ones(size, np.uint8)}) for size in sizes]
    for client, observation in robots:
        assert client.infer(observation)["observation"]["image"].nbytes == len(observation["image"])
    broker.kill()
    stack.broker("limits.max_bytes=1000000").wait_ready()
    accepted = 0
    for client, observation in robots:
        with pytest.raises(errors.MessageTooLarge):
            client.infer(observation)
        before, accepted = accepted, client.status()["counters"]["frontend accepted"]
        assert accepted - before <= 6  # it did not try again and again
        assert client.infer({"tag": "small"})["observation"]["tag"] == "small"


def test_a_broker_that_stays_away_and_one_that_was_never_there(stack: Stack) -> None:
    broker = stack.broker()
    client = stack.client()
    broker.kill()
    started = time.monotonic()
    with pytest.raises(errors.BrokerUnreachable):
        client.infer({}, deadline_s=0.5)
    with pytest.raises(errors.BrokerUnreachable, match="python -m broker"):
        stack.client(connect_timeout_s=0.5)
    assert 1.0 <= time.monotonic() - started < QUICKLY_S


def test_a_stopping_broker_answers_what_is_in_hand(stack: Stack) -> None:
    broker = stack.broker("timers.drain_ms=60000")
    worker = stack.gate()
    worker.wait_ready()
    in_hand = stack.infer({"tag": 1})
    mid_request(stack, worker)
    waiting = stack.infer({"tag": 2}, timeout_s=4.0)
    late = stack.client()
    eventually(lambda: sum(late.status()["queues"].values()) == 1, "the second one waits")
    broker.terminate()
    with pytest.raises(errors.Draining):  # at its deadline: until then it asks again
        waiting.result(WAIT_S)
    with pytest.raises(errors.Draining):
        late.infer({}, deadline_s=_BRIEF_S)
    stack.open_gate()
    assert in_hand.result(WAIT_S)["tag"] == 1
    assert broker.wait(WAIT_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
def test_both_stop_when_asked_to(stack: Stack, number: signal.Signals, busy: bool) -> None:
    broker, worker = stack.broker(), stack.gate()
    worker.wait_ready()
    if busy:
        stack.infer({}, timeout_s=5.0)
        mid_request(stack, worker)
    for process in (worker, broker):
        os.kill(process.pid, number)
        assert process.wait(QUICKLY_S) == 0
        assert "Traceback" not in process.log.read_text()


def test_they_stop_while_nobody_else_is_there(stack: Stack) -> None:
    loading = stack.staged("SlowToLoad", folder=stack.folder)
    eventually(lambda: "no word from a broker" in loading.log.read_text(), "it complains")
    loading.terminate()
    assert loading.wait(QUICKLY_S) == 0


def test_a_broker_under_a_flood_still_stops(stack: Stack) -> None:
    broker = stack.broker()
    worker = stack.worker("echo")
    worker.wait_ready()
    flood = [stack.flood({"state": np.zeros(14)}, timeout_s=2.0) for _ in range(6)]
    eventually(lambda: stack.accepted() > 100, "the flood has come")
    broker.terminate()
    assert broker.wait(QUICKLY_S) == 0
    for each in flood:
        assert isinstance(each.exception(WAIT_S), (errors.Draining, errors.BrokerUnreachable))


def test_a_worker_that_is_still_loading(stack: Stack) -> None:
    stack.broker()
    worker = stack.staged("SlowToLoad", folder=stack.folder)
    client = stack.client()
    eventually(lambda: "staged" in client.ping()["policies"], "the worker said hello")
    with pytest.raises(errors.WorkerLoading, match="still loading"):
        client.infer({}, deadline_s=_BRIEF_S)
    assert client.get_server_metadata()["action_horizon"] == 5
    answer = stack.infer({"tag": "patient"})
    stack.open_gate()
    assert answer.result(WAIT_S)["tag"] == "patient"
    worker.wait_ready()


def test_no_worker(stack: Stack) -> None:
    stack.broker()
    client = stack.client()
    with pytest.raises(errors.NoWorker):
        client.infer({}, deadline_s=_BRIEF_S)
    with pytest.raises(errors.NoWorker, match="start one"):
        stack.client(timeout_s=_BRIEF_S).get_server_metadata()
    # It waits as long as such a worker may still be on its way, which the broker decides.
    with pytest.raises(errors.UnknownPolicy, match="nothing is served yet"):
        stack.client(policy="echo").infer({}, deadline_s=WAIT_S)


def test_a_worker_that_differs_is_refused(stack: Stack) -> None:
    stack.broker()
    stack.open_gate()
    stack.gate().wait_ready()
    others = [stack.gate(digest="other"), stack.gate(horizon=6)]
    served = "'staged' is already served with digest gate and horizon 5"
    for other in others:
        assert other.wait(WAIT_S) == 4
        log = other.log.read_text()
        assert f"refused this worker: {served}" in log
        assert "name=..." in log
        assert "Traceback" not in log
    assert stack.client().infer({"tag": 1})["tag"] == 1


def test_a_policy_that_calls_sys_exit_fails_its_request_only(shared: Stack) -> None:
    client = shared.client(policy="faulty")
    for _ in range(2):
        with pytest.raises(errors.PolicyFailed, match="the policy raised SystemExit"):
            client.infer({"fault": "exit"})
    with pytest.raises(errors.BadObservation):  # the same worker goes on: there is no other
        client.infer({"fault": "bad observation"})


def test_a_policy_that_cannot_be_loaded(stack: Stack) -> None:
    stack.broker()
    worker = stack.staged("Broken")
    assert worker.wait(WAIT_S) == 3
    assert "the policy cannot be served: the weights are of another model" in worker.log.read_text()


def test_metadata_that_cannot_be_sent(stack: Stack) -> None:
    worker = stack.staged("Unsendable")
    assert worker.wait(WAIT_S) == 3
    assert "robot: object cannot be sent" in worker.log.read_text()
    assert "Traceback" not in worker.log.read_text()


def test_a_broker_that_comes_where_somebody_hung_up_gets_the_worker(stack: Stack) -> None:
    with stranger(stack.backend, close) as times:
        worker = stack.worker("echo")
        eventually(lambda: len(times) > 8, "it has tried")
        eventually(lambda: "not as a broker for us" in worker.log.read_text(), "it is told")
    stack.broker()
    worker.wait_ready()
    assert worker.log.read_text().count("not as a broker for us") == 1
    with stack.client() as client:
        assert client.infer({"tag": 1})["observation"] == {"tag": 1}
