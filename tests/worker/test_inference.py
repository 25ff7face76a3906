"""The device thread: one job after another, every fault an answer, and a seed for every job."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from client.body import LARGE, decode_body
from client.errors import BadObservation
from client.wire import RequestId
from tests.worker.device import Device
from worker.answers import Answer, Job
from worker.inference import Broken, InferenceThread, Warm


class Scripted:
    """Infers whatever the test says."""

    def __init__(self, infer: Callable[[dict[str, Any]], Any]) -> None:
        self.infer = infer


def job(observation: dict[str, Any] | None = None, sequence: int = 1, **header: Any) -> Job:
    header = {"id": RequestId(b"c" * 16, sequence), "attempt": 1, **header}
    return Job(header, observation or {}, time.monotonic(), 0.25)


def answer_to(policy: Any, *jobs: Job) -> list[Answer]:
    """What a started device makes of jobs."""
    device = Device(policy)
    device.start()
    for each in jobs:
        device.give(each)
    warm, *answers = device.reports(1 + len(jobs))
    assert isinstance(warm, Warm)
    assert all(isinstance(answer, Answer) for answer in answers)
    return [answer for answer in answers if isinstance(answer, Answer)]


def actions(observation: dict[str, Any]) -> dict[str, Any]:
    return {"actions": np.zeros((2, 3)), "seen": observation}


def test_an_answer() -> None:
    (answer,) = answer_to(Scripted(actions), job({"state": np.ones(2)}))
    assert answer.fields["kind"] == "result"
    assert set(answer.fields["timing"]) == {"decode_ms", "wait_ms", "infer_ms", "encode_ms"}
    assert answer.fields["timing"]["decode_ms"] == 0.25
    result = decode_body(list(answer.payload))
    assert result["seen"]["state"].tolist() == [1.0, 1.0]
    assert result["policy_timing"]["infer_ms"] == answer.fields["timing"]["infer_ms"]


def test_a_policy_that_times_itself_is_believed() -> None:
    policy = Scripted(
        lambda observation: {"actions": np.ones(1), "policy_timing": {"infer_ms": 7.0}}
    )
    (answer,) = answer_to(policy, job())
    assert decode_body(list(answer.payload))["policy_timing"] == {"infer_ms": 7.0}


@pytest.mark.parametrize("buffers", [True, False])
def test_buffers_only_for_those_who_understand_them(buffers: bool) -> None:
    policy = Scripted(lambda observation: {"actions": np.zeros(LARGE)})
    (answer,) = answer_to(policy, job(buffers=buffers))
    assert len(answer.payload) == 1 + buffers


def test_jobs_in_their_order() -> None:
    jobs = [job({"tag": tag}, sequence=tag) for tag in range(5)]
    assert [answer.job for answer in answer_to(Scripted(actions), *jobs)] == jobs


def test_every_attempt_at_a_request_has_the_same_seed_and_no_other_request() -> None:
    first, again, other = answer_to(
        Scripted(actions), job(attempt=1), job(attempt=2), job(sequence=2)
    )
    seeds = [decode_body(list(answer.payload))["seen"]["seed"] for answer in (first, again, other)]
    assert seeds[0] == seeds[1] != seeds[2]


def test_what_the_robot_gives_is_left_alone() -> None:
    given, noise = answer_to(Scripted(actions), job({"seed": 3}), job({"noise": np.zeros(1)}))
    assert decode_body(list(given.payload))["seen"] == {"seed": 3}
    assert set(decode_body(list(noise.payload))["seen"]) == {"noise"}


def raising(error: Exception) -> Scripted:
    def infer(observation: dict[str, Any]) -> Any:
        raise error

    return Scripted(infer)


@pytest.mark.parametrize(
    ("policy", "code", "words"),
    [
        (raising(BadObservation("state: 14 numbers")), "bad_observation", "state: 14 numbers"),
        (raising(RuntimeError("out of memory\nat line 3")), "policy_failed", "out of memory"),
        (raising(KeyError("state")), "policy_failed", "KeyError"),
        (raising(RuntimeError("\ud800")), "policy_failed", "RuntimeError"),
        (Scripted(lambda observation: None), "policy_failed", "`actions`"),
        (Scripted(lambda observation: {"action": 1}), "policy_failed", "`actions`"),
        (
            Scripted(lambda observation: {"actions": np.ones(1), "seen": {1}}),
            "policy_failed",
            "cannot be sent",
        ),
    ],
)
def test_a_fault_is_an_answer_and_the_next_job_is_done(
    policy: Scripted, code: str, words: str
) -> None:
    for answer in answer_to(policy, job(), job(sequence=2)):
        assert (answer.fields["kind"], answer.fields["code"]) == ("failure", code)
        assert words in answer.fields["message"]
        assert "line 3" not in answer.fields["message"]


def test_a_job_whose_deadline_has_passed_is_not_done() -> None:
    done = []
    policy = Scripted(lambda observation: done.append(observation) or actions({}))  # type: ignore[func-returns-value]
    late, fine = answer_to(policy, job(deadline_ms=0.0), job(deadline_ms=60_000.0))
    assert late.fields["code"] == "deadline_exceeded"
    assert fine.fields["kind"] == "result"
    assert len(done) == 1


def test_load_then_warm_up_then_ready() -> None:
    order: list[str] = []

    class Careful(Scripted):
        def load(self) -> None:
            order.append("load")

        def warm_up(self) -> np.float32:
            order.append("warm up")
            return np.float32(2.5)

    device = Device(Careful(actions))
    device.start()
    (warm,) = device.reports(1)
    assert order == ["load", "warm up"]
    assert isinstance(warm, Warm)
    assert (warm.inference_ms, type(warm.inference_ms)) == (2.5, float)


def test_a_policy_that_does_not_say_how_fast_it_is() -> None:
    device = Device(Scripted(actions))
    device.start()
    assert device.reports(1) == [Warm(None)]


@pytest.mark.parametrize("said", [float("nan"), -1.0, float("inf"), "fast", [1.0]])
def test_a_speed_that_is_none(said: Any) -> None:
    policy = Scripted(actions)
    policy.warm_up = lambda: said  # type: ignore[attr-defined]
    device = Device(policy)
    device.start()
    (broken,) = device.reports(1)
    assert isinstance(broken, Broken)
    assert "warm_up answered" in str(broken.error)


def test_what_an_inference_is_expected_to_take_follows_what_the_last_ones_took() -> None:
    policy = Scripted(actions)
    slow = threading.Event()
    policy.infer = lambda observation: slow.wait(0.02) or actions(observation)
    device = Device(policy)
    device.start()
    device.give(job())
    device.reports(2)
    slow.set()
    for sequence in range(2, 30):
        device.give(job(sequence=sequence))
        device.reports(1)
    first, second, *_, last = device.begun
    assert first == float("inf")
    assert second >= 0.02
    assert last < second


def test_it_ends_when_no_more_jobs_come() -> None:
    device = Device(Scripted(actions))
    device.start()
    device.give(job())
    device.reports(2)
    device.close()


@pytest.mark.parametrize("result", [{"actions": [[0.0]]}, {"actions": None}, {}, [0.0], None])
def test_actions_that_are_no_array(result: Any) -> None:
    (answer,) = answer_to(Scripted(lambda observation: result), job())
    assert answer.fields["code"] == "policy_failed"
    assert "numpy array" in answer.fields["message"]


@pytest.mark.parametrize("error", [RuntimeError("no such weights"), SystemExit(1), MemoryError()])
@pytest.mark.parametrize("stage", ["load", "warm_up"])
def test_a_policy_that_cannot_be_made_ready(error: BaseException, stage: str) -> None:
    def fail() -> None:
        raise error

    policy = Scripted(actions)
    setattr(policy, stage, fail)
    device = Device(policy)
    device.start()
    (broken,) = device.reports(1)
    assert isinstance(broken, Broken)
    assert broken.error is error


class Stubborn(RuntimeError):
    """An error that cannot even say what it is."""

    def __str__(self) -> str:
        raise ValueError("no words")


@pytest.mark.parametrize(
    "error",
    [
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
        asyncio.CancelledError(),
        BaseExceptionGroup("several", [KeyboardInterrupt()]),
        Stubborn(),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("in_batch", [False, True])
def test_whatever_a_policy_raises_fails_its_request_only(
    error: BaseException, in_batch: bool
) -> None:
    def infer(observation: dict[str, Any]) -> dict[str, Any]:
        if "leave" in observation:
            raise error
        return {"actions": np.zeros((1, 1))}

    policy = Scripted(infer)
    if in_batch:
        policy.infer_batch = lambda observations: [infer(each) for each in observations]  # type: ignore[attr-defined]
    thread = Device(policy, 2, batch_wait_s=60.0 * in_batch)
    thread.start()
    for each in (job({"leave": 1}, 1), job({}, 2)):
        thread.give(each)
    _, *answers = thread.reports(3)
    told = {each.job.id.sequence: each.fields for each in answers if isinstance(each, Answer)}
    assert told[1]["code"] == "policy_failed"
    assert type(error).__name__ in told[1]["message"]
    assert told[2]["kind"] == "result"


def test_an_exception_among_the_results_of_a_batch_fails_its_request_only() -> None:
    policy = Scripted(actions)
    policy.infer_batch = lambda observations: [SystemExit(2), actions({})]  # type: ignore[attr-defined]
    thread = Device(policy, 2, batch_wait_s=60.0)
    thread.start()
    for each in (job({}, 1), job({}, 2)):
        thread.give(each)
    _, *answers = thread.reports(3)
    kinds = [each.fields["kind"] for each in answers if isinstance(each, Answer)]
    assert kinds == ["failure", "result"]


class Chunking(Scripted):
    """Says of itself which forms of real-time chunking it takes."""

    def __init__(self, modes: list[str] | None) -> None:
        super().__init__(actions)
        self.metadata = {} if modes is None else {"rtc": modes}


@pytest.mark.parametrize("modes", [None, []])
def test_a_leftover_never_reaches_a_policy_without_flow(modes: list[str] | None) -> None:
    policy = Chunking(modes)
    policy.infer = lambda observation: pytest.fail("the policy was asked")
    (answer,) = answer_to(policy, job({"prev_actions": np.zeros((3, 2))}))
    assert answer.fields["kind"] == "failure"
    assert answer.fields["code"] == "bad_observation"
    assert "merge='average'" in answer.fields["message"]


def test_a_leftover_reaches_a_policy_that_takes_it() -> None:
    (answer,) = answer_to(Chunking(["identity"]), job({"prev_actions": np.zeros((3, 2))}))
    assert answer.fields["kind"] == "result"


def test_a_leftover_that_is_refused_does_not_touch_its_batch() -> None:
    plain, left = job({"tag": 1}), job({"prev_actions": np.zeros((3, 2))}, sequence=2)
    thread = InferenceThread(Chunking(None), Device(Scripted(actions)), 3)
    answers = thread._answers([left, plain, left])
    assert [answer.fields["kind"] for answer in answers] == ["failure", "result", "failure"]
    assert decode_body(list(answers[1].payload))["seen"]["tag"] == 1
