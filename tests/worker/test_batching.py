"""Batches on the device thread: formed from what waits, and nobody pays for another's fault."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from client.body import Observation, decode_body
from client.errors import BadObservation
from tests.worker.device import WAIT_S, Device
from tests.worker.test_inference import Scripted, actions, job
from worker.answers import Answer, Job
from worker.errors import DeviceLost
from worker.inference import Broken, Warm


class Batching:
    """Notes its batches; the first waits until the test says `go`."""

    def __init__(self, infer: Callable[[Observation], Any] = actions) -> None:
        self._infer = infer
        self.batches: list[list[Any]] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def infer(self, observation: Observation) -> Any:
        return self._run([observation])[0]

    def infer_batch(self, observations: Sequence[Observation]) -> list[Any]:
        return self._run(observations)

    def _run(self, observations: Sequence[Observation]) -> list[Any]:
        self.batches.append([o.get("tag") for o in observations])
        self.begun.set()
        assert self.go.wait(WAIT_S)
        return [self._infer(o) for o in observations]


def jobs(*tags: int) -> list[Job]:
    return [job({"tag": tag}, sequence=tag) for tag in tags]


def answers_of(policy: Batching, given: list[Job], largest: int) -> list[Answer]:
    """The first job is begun before the others come, so that those wait together."""
    device = Device(policy, largest)
    device.start()
    device.give(given[0])
    assert policy.begun.wait(WAIT_S)
    for each in given[1:]:
        device.give(each)
    policy.go.set()
    warm, *rest = device.reports(1 + len(given))
    assert isinstance(warm, Warm)
    return [answer for answer in rest if isinstance(answer, Answer)]


def kinds(answers: list[Answer]) -> dict[int, str]:
    return {answer.job.id.sequence: answer.fields["kind"] for answer in answers}


def test_what_waits_together_is_answered_together() -> None:
    policy = Batching()
    answers = answers_of(policy, jobs(1, 2, 3, 4, 5, 6), largest=3)
    assert policy.batches == [[1], [2, 3, 4], [5, 6]]
    for answer in answers:
        seen = decode_body(list(answer.payload))["seen"]
        assert seen["tag"] == answer.job.id.sequence
        assert "seed" in seen


@pytest.mark.parametrize("largest", [1, 3])
def test_one_by_one_with_one_slot_or_without_infer_batch(largest: int) -> None:
    policy = Batching()
    if largest > 1:
        policy.infer_batch = None  # type: ignore[method-assign, assignment]
    answers_of(policy, jobs(1, 2, 3), largest)
    assert policy.batches == [[1], [2], [3]]


def test_a_bad_observation_in_a_batch_fails_alone() -> None:
    class Checking(Batching):
        def _run(self, observations: Sequence[Observation]) -> list[Any]:
            return [
                BadObservation("tag: three") if o["tag"] == 3 else result
                for o, result in zip(observations, super()._run(observations), strict=True)
            ]

    answers = answers_of(Checking(), jobs(1, 2, 3, 4), largest=3)
    assert kinds(answers) == {1: "result", 2: "result", 3: "failure", 4: "result"}
    (failed,) = [answer.fields for answer in answers if answer.fields["kind"] == "failure"]
    assert (failed["code"], failed["message"]) == ("bad_observation", "tag: three")


def test_a_batch_that_raises_is_tried_one_by_one() -> None:
    def infer(observation: Observation) -> Any:
        if observation["tag"] == 3:
            raise RuntimeError("out of memory")
        return actions(observation)

    policy = Batching(infer)
    answers = answers_of(policy, jobs(1, 2, 3, 4), largest=3)
    assert kinds(answers) == {1: "result", 2: "result", 3: "failure", 4: "result"}
    assert policy.batches == [[1], [2, 3, 4], [2], [3], [4]]


def test_a_batch_with_too_few_answers_is_tried_one_by_one() -> None:
    class Short(Batching):
        def infer_batch(self, observations: Sequence[Observation]) -> list[Any]:
            return super().infer_batch(observations)[:1]

    assert kinds(answers_of(Short(), jobs(1, 2, 3), largest=2)) == dict.fromkeys(
        (1, 2, 3), "result"
    )


def test_a_late_job_is_not_in_the_batch() -> None:
    policy = Batching()
    late = job({"tag": 2}, sequence=2, deadline_ms=0.0)
    answers = answers_of(policy, [*jobs(1), late, *jobs(3)], largest=3)
    assert kinds(answers) == {1: "result", 2: "failure", 3: "result"}
    assert policy.batches == [[1], [3]]


def test_a_batch_waits_for_others_if_told_to() -> None:
    policy = Batching()
    policy.go.set()
    device = Device(policy, 2, batch_wait_s=WAIT_S)
    device.start()
    for each in jobs(1, 2):
        device.give(each)
    device.reports(3)
    assert policy.batches == [[1, 2]]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("error", [DeviceLost("cuda failed"), torch.AcceleratorError("CUDA error")])
def test_a_lost_device_ends_the_thread(error: Exception, count: int) -> None:
    def infer(observation: Observation) -> Any:
        if observation["tag"] > 1:
            raise error
        return {"actions": np.zeros((1, 1))}

    policy = Batching(infer)
    device = Device(policy, 3)
    device.start()
    device.give(jobs(1)[0])
    assert policy.begun.wait(WAIT_S)
    for each in jobs(*range(2, 2 + count)):
        device.give(each)
    policy.go.set()
    warm, answer, broken = device.reports(3)
    assert isinstance(warm, Warm)
    assert isinstance(answer, Answer)
    assert isinstance(broken, Broken)
    assert broken.error is error
    assert len(policy.batches) == 2


def test_without_torch_only_our_own_error_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch", None)

    def infer(observation: Observation) -> Any:
        raise RuntimeError("CUDA error, it says")

    device = Device(Scripted(infer))
    device.start()
    device.give(job())
    _, answer = device.reports(2)
    assert isinstance(answer, Answer)
    assert answer.fields["code"] == "policy_failed"
