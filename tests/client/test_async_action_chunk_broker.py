"""The thread around the schedule: what it asks, what it raises, and that it never blocks a step."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from client import AsyncActionChunkBroker
from client.errors import (
    BadObservation,
    BrokerUnreachable,
    ClientClosed,
    NoWorker,
    PolicyError,
    PolicyFailed,
    Starved,
)
from client.snapshot import _OURS_ALONE, _holders

WAIT_S = 30.0
ROWS, DIMS = 4, 2


class Gate:
    """A policy that waits for the test to say what it answers."""

    def __init__(self, rtc: list[str] | None = None) -> None:
        self.asked: queue.Queue[tuple[dict[str, Any], dict[str, Any]]] = queue.Queue()
        self.answers: queue.Queue[Any] = queue.Queue()
        self.resets = threading.Semaphore(0)
        self._rtc = ["identity"] if rtc is None else rtc

    def infer(self, obs: dict[str, Any], **options: Any) -> dict[str, Any]:
        self.asked.put((obs, options))
        answer = self.answers.get(timeout=WAIT_S)
        if isinstance(answer, BaseException):
            raise answer
        return {"actions": answer}

    def reset(self) -> None:
        self.resets.release()

    def get_server_metadata(self) -> dict[str, Any]:
        return {"rtc": self._rtc}


class Clock:
    """Stands still, unless a step was made."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Loop:
    """A control loop at 50 Hz around a broker, without waiting."""

    def __init__(self, policy: Gate, **options: Any) -> None:
        self.policy, self.clock = policy, Clock()
        self.broker = AsyncActionChunkBroker(policy, 50, clock=self.clock, **options)

    def step(self, number: float = 0.0) -> Any:
        action = self.broker.step({"state": np.full(3, number)})
        self.clock.now += 0.02
        return action

    def answer(self, answer: Any) -> dict[str, Any]:
        """To the request in flight; returns when the broker has taken it. The options it had."""
        _, options = self.policy.asked.get(timeout=WAIT_S)
        before = self.broker.statistics()
        self.policy.answers.put(answer)
        with self.broker._changed:
            assert self.broker._changed.wait_for(lambda: self._taken(before), WAIT_S)
        return options

    def _taken(self, before: Any) -> bool:
        now = self.broker._schedule.statistics()
        return (now.answers, now.failures, now.dropped) != (
            before.answers,
            before.failures,
            before.dropped,
        )


def chunk(first: float) -> Any:
    return first + np.arange(ROWS * DIMS, dtype=float).reshape(ROWS, DIMS)


@pytest.fixture
def loops() -> Iterator[Any]:
    made: list[Loop] = []

    def make(policy: Gate | None = None, **options: Any) -> Loop:
        made.append(Loop(policy or Gate(), **options))
        return made[-1]

    yield make
    for loop in made:
        loop.policy.answers.put(ClientClosed("the test is over"))
        loop.broker.close()


def test_a_step_never_waits_for_the_policy(loops: Any) -> None:
    loop = loops()
    assert [loop.step() for _ in range(5)] == [None] * 5
    loop.answer(chunk(0))
    assert loop.step().tolist() == [0.0, 1.0]
    assert loop.step().tolist() == [2.0, 3.0]
    assert loop.broker.statistics().waited == 5


def test_an_observation_is_copied_when_it_is_asked_with(loops: Any) -> None:
    loop = loops()
    camera = np.zeros((2, 2))
    loop.broker.step({"images": {"cam": camera}, "prompt": "go"})
    camera[:] = 9.0
    obs, options = loop.policy.asked.get(timeout=WAIT_S)
    assert obs["images"]["cam"].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert obs["prompt"] == "go"
    assert options == {}


def asked(loop: Loop, number: float) -> dict[str, Any]:
    """Step until a chunk is asked for, and answer; the observation that it was asked with."""
    while not loop.broker._schedule.is_asking:
        loop.step(number)
    obs, options = loop.policy.asked.get(timeout=WAIT_S)
    loop.policy.asked.put((obs, options))
    loop.answer(chunk(0))
    return obs


def test_a_policy_may_keep_observations(loops: Any) -> None:
    loop = loops()
    kept = [asked(loop, number) for number in (1.0, 2.0, 3.0)]
    assert [obs["state"].tolist() for obs in kept] == [[n] * 3 for n in (1.0, 2.0, 3.0)]


def test_an_answered_observation_leaves_its_memory_to_the_next(loops: Any) -> None:
    loop = loops()
    places = []
    for number in (1.0, 2.0, 3.0):
        places.append(asked(loop, number)["state"].__array_interface__["data"][0])
        arrays = loop.broker._snapshots._arrays
        give_up = time.monotonic() + WAIT_S
        # The thread lets go of it a moment after it has handed the answer over.
        while _holders(arrays, ("state",)) != _OURS_ALONE:
            assert time.monotonic() < give_up
            time.sleep(0.001)
    assert len({*places}) == 1


def test_a_leftover_travels_as_keywords(loops: Any) -> None:
    loop = loops(merge="rtc", max_guidance_weight=5.0)
    loop.step()
    assert loop.answer(chunk(0)) == {}
    loop.step()
    loop.step()
    options = loop.answer(chunk(10))
    assert options["prev_actions"].tolist() == chunk(0)[1:].tolist()
    assert options["inference_delay"] == 1
    assert options["max_guidance_weight"] == 5.0
    assert set(options) == {"prev_actions", "inference_delay", "max_guidance_weight"}


@pytest.mark.parametrize(
    "error", [BadObservation("state: missing"), PolicyFailed("it raised"), KeyError("actions")]
)
def test_a_refusal_comes_out_of_the_next_step_and_the_loop_goes_on(
    loops: Any, error: Exception
) -> None:
    loop = loops()
    loop.step()
    loop.answer(error)
    with pytest.raises(type(error)):
        loop.step()
    assert loop.broker.last_failure is error
    assert loop.step() is None
    loop.answer(chunk(0))
    assert loop.step().tolist() == [0.0, 1.0]


@pytest.mark.parametrize("error", [NoWorker("none"), BrokerUnreachable("gone"), TimeoutError()])
def test_what_may_pass_is_held_through_and_resumed(loops: Any, error: Exception) -> None:
    loop = loops(action_horizon=ROWS)
    loop.step()
    loop.answer(chunk(0))
    for _ in range(ROWS):
        loop.step()
    loop.answer(error)
    last = chunk(0)[-1].tolist()
    assert loop.step().tolist() == last
    loop.clock.now += 10.0
    assert loop.step().tolist() == last
    loop.answer(chunk(100))
    assert loop.step().tolist() == [100.0, 101.0]
    statistics = loop.broker.statistics()
    assert (statistics.failures, statistics.held) == (1, 2)
    assert loop.broker.last_failure is error


def test_an_answer_that_is_no_chunk_is_raised(loops: Any) -> None:
    loop = loops()
    loop.step()
    loop.answer(np.zeros(3))
    with pytest.raises(ValueError, match="not \\(rows, dims\\)"):
        loop.step()


def test_starvation_can_be_raised(loops: Any) -> None:
    loop = loops(starvation="raise", action_horizon=ROWS)
    assert loop.step() is None
    loop.answer(chunk(0))
    for _ in range(ROWS):
        loop.step()
    for _ in range(2):
        with pytest.raises(Starved, match="smaller action_horizon"):
            loop.step()
    loop.answer(chunk(100))
    assert loop.step() is not None


def test_a_reset_reaches_the_policy_and_drops_what_is_in_flight(loops: Any) -> None:
    loop = loops()
    loop.step()
    loop.policy.asked.put(loop.policy.asked.get(timeout=WAIT_S))  # the thread is inside of it
    loop.broker.reset()
    loop.answer(chunk(666))
    assert loop.policy.resets.acquire(timeout=WAIT_S)
    assert loop.step() is None
    loop.answer(chunk(0))
    assert loop.step().tolist() == [0.0, 1.0]
    assert loop.broker.statistics().dropped == 1


def test_an_idle_reset_reaches_the_policy_too(loops: Any) -> None:
    loop = loops()
    loop.broker.reset()
    assert loop.policy.resets.acquire(timeout=WAIT_S)


def test_after_close_a_step_is_refused(loops: Any) -> None:
    loop = loops()
    with loop.broker:
        pass
    with pytest.raises(ClientClosed):
        loop.step()
    loop.broker.close()


def test_infer_waits_for_the_first_chunk_only(loops: Any) -> None:
    loop = loops(action_horizon=1)
    loop.policy.answers.put(chunk(0))
    first = loop.broker.infer({"state": np.zeros(3)})
    assert first["actions"].tolist() == [0.0, 1.0]
    rest = [loop.broker.infer({"state": np.zeros(3)})["actions"] for _ in range(5)]
    assert rest[-1].tolist() == chunk(0)[-1].tolist()


@pytest.mark.parametrize("error", [NoWorker("none"), BadObservation("state")])
def test_infer_raises_whatever_keeps_the_first_chunk_away(loops: Any, error: PolicyError) -> None:
    loop = loops()
    loop.policy.answers.put(error)
    with pytest.raises(type(error)):
        loop.broker.infer({"state": np.zeros(3)})


def test_closing_ends_a_waiting_infer(loops: Any) -> None:
    loop = loops()
    raised: queue.Queue[BaseException] = queue.Queue()

    def wait() -> None:
        try:
            loop.broker.infer({"state": np.zeros(3)})
        except ClientClosed as error:
            raised.put(error)

    thread = threading.Thread(target=wait)
    thread.start()
    loop.policy.asked.get(timeout=WAIT_S)
    loop.policy.answers.put(TimeoutError())
    loop.broker.close()
    thread.join(WAIT_S)
    assert not thread.is_alive()


@pytest.mark.parametrize(("modes", "mode"), [([], None), (["identity"], "trained")])
def test_rtc_is_refused_where_the_policy_says_that_it_cannot(
    modes: list[str], mode: str | None
) -> None:
    with pytest.raises(ValueError, match="merge='average' or 'ensemble'"):
        AsyncActionChunkBroker(Gate(modes), 50, merge="rtc", mode=mode)


def test_a_policy_that_says_nothing_is_believed(loops: Any) -> None:
    class Silent:
        def infer(self, obs: dict[str, Any], **options: Any) -> dict[str, Any]:
            return {"actions": chunk(0)}

        def reset(self) -> None: ...

    with AsyncActionChunkBroker(Silent(), 50, merge="rtc", mode="trained") as broker:
        assert broker.infer({})["actions"].tolist() == [0.0, 1.0]


def test_a_control_rate_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="control_hz is 0"):
        AsyncActionChunkBroker(Gate(), 0)


def test_steps_from_several_threads_hand_out_each_action_once(loops: Any) -> None:
    loop = loops(action_horizon=ROWS)
    loop.step()
    loop.answer(np.arange(400.0)[:, None])
    got: queue.Queue[float] = queue.Queue()

    def drive() -> None:
        for _ in range(100):
            got.put(float(loop.broker.step({})[0]))

    threads = [threading.Thread(target=drive) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_S)
    assert sorted(got.queue) == list(range(400))


class Told(Gate):
    """A policy that takes the count of held steps, as `ZmqPolicyClient` does."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[int] = []

    def tell_held(self, steps: int) -> None:
        self.held.append(steps)


def test_each_request_tells_how_many_steps_were_held_before_it(loops: Any) -> None:
    policy = Told()
    loop = loops(policy)
    loop.step()
    loop.answer(chunk(0))
    for _ in range(ROWS + 3):  # the second request is out, and three steps have no action
        loop.step()
    assert loop.broker.statistics().held == 3
    loop.answer(chunk(0))
    for _ in range(ROWS):
        loop.step()
    loop.answer(chunk(0))
    assert policy.held == [0, 0, 3]
