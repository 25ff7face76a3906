"""The thread that runs the policy, so that a long inference never silences the heartbeat."""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from client import errors
from client.body import encode_body
from client.wire import LONGEST_MS, Header, RequestId
from worker.errors import DeviceLost, WorkerError
from worker.policy import Observation, Policy

logger = logging.getLogger("worker")


@dataclass(slots=True)
class Job:
    """One attempt at one request, as the broker gave it. Times are monotonic seconds."""

    header: Header
    observation: dict[str, Any]
    received_at: float
    decode_ms: float

    @property
    def id(self) -> RequestId:
        """The request's."""
        request: RequestId = self.header["id"]
        return request


@dataclass(slots=True)
class Answer:
    """The answer to a job: its header's fields and its payload."""

    job: Job
    fields: Header
    payload: Sequence[bytes | memoryview] = ()


@dataclass(slots=True)
class Warm:
    """The policy is loaded and warm; `inference_ms` is None where it does not say."""

    inference_ms: float | None


@dataclass(slots=True)
class Broken:
    """The policy could not be made ready, or lost its device."""

    error: BaseException


NO_CHUNKING = errors.BadObservation(
    "prev_actions: this policy has no flow that could go on from it, so it cannot take real-time"
    " chunking; let the client merge chunks by merge='average' or 'ensemble' instead"
)

Report = Answer | Warm | Broken
InferBatch = Callable[[Sequence[Observation]], Sequence[Any]]


class InferenceThread(threading.Thread):
    """Loads a policy, warms it up, and runs jobs; those that wait together run as one batch.

    `wake_fd` becomes readable with each report, and `take_reports` returns them.
    """

    def __init__(self, policy: Policy, largest_batch: int = 1, batch_wait_s: float = 0.0) -> None:
        """`batch_wait_s`: how long a batch with one job waits for others."""
        super().__init__(name="inference", daemon=True)
        self._infer_batch: InferBatch | None = getattr(policy, "infer_batch", None)
        self._largest = largest_batch if self._infer_batch is not None else 1
        self._batch_wait_s = batch_wait_s
        self.reports: deque[Report] = deque()
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._policy = policy
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()

    def give(self, job: Job) -> None:
        """Queue a job."""
        self._jobs.put(job)

    def take_reports(self) -> list[Report]:
        """Take all reports so far, and clear `wake_fd`."""
        # The signal is cleared first: a report that comes in between signals again.
        with suppress(BlockingIOError):
            os.eventfd_read(self.wake_fd)
        return [self.reports.popleft() for _ in range(len(self.reports))]

    def run(self) -> None:
        """Load and warm up, then infer until the process ends or the device is lost."""
        try:
            load = getattr(self._policy, "load", None)
            if load is not None:
                load()
            warm_up = getattr(self._policy, "warm_up", None)
            self.report(Warm(_checked_ms(warm_up() if warm_up is not None else None)))
            while True:
                self._run_batch()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the process must end
            self.report(Broken(error))

    def report(self, report: Report) -> None:
        """Add a report; any thread may."""
        self.reports.append(report)
        os.eventfd_write(self.wake_fd, 1)

    def _run_batch(self) -> None:
        # By itself, so that no variable holds the last observation, which may lie in a robot's
        # memory, while this waits for the next.
        for answer in self._answers(self._next_batch()):
            self.report(answer)

    def _next_batch(self) -> list[Job]:
        jobs = [self._jobs.get()]
        full_at = time.monotonic() + self._batch_wait_s
        while len(jobs) < self._largest:
            try:
                jobs.append(self._jobs.get(timeout=max(0.0, full_at - time.monotonic())))
            except queue.Empty:
                break
        return jobs

    def _answers(self, jobs: list[Job]) -> list[Answer]:
        started = time.monotonic()
        in_time = [job for job in jobs if started <= _deadline(job)]
        late = errors.DeadlineExceeded("its deadline passed before the worker came to it")
        answers = [failed(job, late) for job in jobs if started > _deadline(job)]
        results = self._infer_usable([_seeded(job) for job in in_time])
        infer_ms = (time.monotonic() - started) * 1e3
        for job, result in zip(in_time, results, strict=True):
            answers.append(_answer(job, result, started, infer_ms))
        return answers

    def _infer_usable(self, observations: list[Observation]) -> list[Any]:
        """As `_infer`, but a leftover never reaches a policy that cannot go on from it."""
        # Read anew: a policy that downloads its files knows itself only when it is loaded.
        modes = getattr(self._policy, "metadata", {}).get("rtc")
        if modes:
            return list(self._infer(observations))
        usable = [o for o in observations if o.get("prev_actions") is None]
        results = iter(self._infer(usable))
        return [
            next(results) if o.get("prev_actions") is None else NO_CHUNKING for o in observations
        ]

    def _infer(self, observations: list[Observation]) -> Sequence[Any]:
        """A result or an exception for each observation; raises an error of the device itself."""
        if len(observations) < 2 or self._infer_batch is None:
            return [self._infer_one(observation) for observation in observations]
        try:
            results = self._infer_batch(observations)
            if len(results) != len(observations):
                raise errors.PolicyFailed(
                    f"infer_batch answered {len(results)} of {len(observations)} observations"
                )
        except BaseException as error:
            if _is_device_lost(error):
                raise
            logger.exception("a batch of %d failed: each is tried alone", len(observations))
            return [self._infer_one(observation) for observation in observations]
        return results

    def _infer_one(self, observation: Observation) -> Any:
        # Also `sys.exit()`, a KeyboardInterrupt or a cancelled coroutine of the policy's own:
        # signals reach the main thread only, so none of them was meant for this process.
        try:
            return self._policy.infer(observation)
        except BaseException as error:
            if _is_device_lost(error):
                raise
            return error


def _checked_ms(said: Any) -> float | None:
    if said is None:
        return None
    with suppress(TypeError, ValueError):
        if 0.0 <= float(said) <= LONGEST_MS:
            return float(said)
    raise WorkerError(
        f"the policy's warm_up answered {said!r}: the milliseconds of an inference, or None, "
        "are expected"
    )


def _answer(job: Job, result: Any, started: float, infer_ms: float) -> Answer:
    encoding = time.monotonic()
    if isinstance(result, errors.PolicyError):
        return failed(job, result)
    if isinstance(result, BaseException):
        return failed(job, _policy_failed(job, result))
    try:
        payload = _encode(result, infer_ms, buffers=job.header.get("buffers", False))
    except errors.PolicyError as error:
        return failed(job, error)
    except Exception as error:  # noqa: BLE001 - it is logged, and told to the robot
        return failed(job, _policy_failed(job, error))
    timing = {
        "decode_ms": job.decode_ms,
        "wait_ms": (started - job.received_at) * 1e3 - job.decode_ms,
        "infer_ms": infer_ms,
        "encode_ms": (time.monotonic() - encoding) * 1e3,
    }
    return Answer(job, {"kind": "result", "timing": timing}, payload)


def _policy_failed(job: Job, error: BaseException) -> errors.PolicyFailed:
    """What the robot is told of a policy's exception; the log gets its traceback."""
    logger.error(
        "the policy failed on a request",
        exc_info=error,
        extra={"about": {"request": str(job.id)}},
    )
    try:
        reason = str(error).partition("\n")[0][:200]
    except Exception:  # noqa: BLE001 - of a foreign `__str__`, where anything may happen
        reason = "(it cannot be shown)"
    return errors.PolicyFailed(
        f"the policy raised {type(error).__name__}: {reason} (request {job.id} in the worker's log)"
    )


def _encode(result: Any, infer_ms: float, *, buffers: bool) -> Sequence[bytes | memoryview]:
    if not isinstance(result, dict) or not isinstance(result.get("actions"), np.ndarray):
        raise errors.PolicyFailed(
            "the policy answered something else than a dict whose `actions` are a numpy array"
        )
    try:
        return encode_body({"policy_timing": {"infer_ms": infer_ms}, **result}, buffers=buffers)
    except errors.BadObservation as error:
        raise errors.PolicyFailed(f"the policy's answer cannot be sent: {error}") from error


def _deadline(job: Job) -> float:
    seconds: float = job.header.get("deadline_ms", float("inf")) / 1e3
    return job.received_at + seconds


def _is_device_lost(error: BaseException) -> bool:
    """Whether the accelerator itself failed, after which every later call to it fails too."""
    torch = sys.modules.get("torch")
    lost = getattr(torch, "AcceleratorError", DeviceLost)
    return isinstance(error, (DeviceLost, lost))


def _seeded(job: Job) -> dict[str, Any]:
    """The observation, with a seed that is the same for every attempt at this request."""
    if "seed" in job.observation or "noise" in job.observation:
        return job.observation
    id = job.id
    digest = hashlib.blake2b(id.client + id.sequence.to_bytes(8, "big"), digest_size=7)
    return {**job.observation, "seed": int.from_bytes(digest.digest(), "big")}


def failed(job: Job, error: errors.PolicyError) -> Answer:
    """The answer to a job that came to nothing."""
    return Answer(job, {"kind": "failure", **errors.to_wire(error)})
