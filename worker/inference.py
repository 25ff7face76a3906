"""The thread that runs the policy, so that a long inference never silences the heartbeat."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from client import errors
from client.body import Observation
from client.wire import LONGEST_MS
from worker.answers import Answer, Job, answered, failed, has_actions
from worker.errors import DeviceLost, WorkerError
from worker.policy import Policy
from worker.robots.guards import Guards
from worker.seeds import seed_of

logger = logging.getLogger("worker")


@dataclass(slots=True)
class Warm:
    """The policy is loaded and warm; `inference_ms` is None where it does not say."""

    inference_ms: float | None


@dataclass(slots=True)
class Broken:
    """The policy could not be made ready, or lost its device."""

    error: BaseException


NO_CHUNKING = errors.BadObservation(
    "prev_actions: this policy has no flow that could continue them, so it cannot do real-time"
    " chunking; let the client merge chunks by merge='average' or 'ensemble' instead"
)

Report = Answer | Warm | Broken
_FOR_EVER = float("inf")
InferBatch = Callable[[Sequence[Observation]], Sequence[Any]]


class Source(Protocol):
    """Where an inference thread gets its jobs, and hands in what became of them."""

    @property
    def jobs(self) -> deque[Job]:
        """Those that wait, in the order in which they are to be run."""

    @property
    def is_open(self) -> bool:
        """Whether there may be another job."""

    def wait(self, until: float) -> None:
        """Wait for a job, at most until then; it may return before one has come."""

    def begin(self, usual_s: float) -> None:
        """The thread begins to infer, which takes so long as a rule."""

    def report(self, reports: Sequence[Report]) -> None:
        """The thread has ended what it began."""


class InferenceThread(threading.Thread):
    """Loads a policy, warms it up, and runs jobs; those that wait together run as one batch."""

    def __init__(
        self,
        policy: Policy,
        source: Source,
        largest_batch: int = 1,
        batch_wait_s: float = 0.0,
        guards: Guards | None = None,
    ) -> None:
        """`batch_wait_s`: how long a batch with one job waits for others."""
        super().__init__(name="inference", daemon=True)
        self._infer_batch: InferBatch | None = getattr(policy, "infer_batch", None)
        self.largest_batch = largest_batch if self._infer_batch is not None else 1
        self._batch_wait_s = batch_wait_s
        self._policy, self._source, self._guards = policy, source, guards
        self._usual_s = _FOR_EVER  # how long an inference took of late

    def run(self) -> None:
        """Load and warm up, then infer until the source closes or the device is lost."""
        try:
            load = getattr(self._policy, "load", None)
            if load is not None:
                load()
            warm_up = getattr(self._policy, "warm_up", None)
            warm = Warm(_checked_ms(warm_up() if warm_up is not None else None))
            self._source.report([warm])
            while self._source.is_open:
                self._run_batch()
        except BaseException as error:  # noqa: BLE001 - whatever it is, the process must end
            self._source.report([Broken(error)])

    def _run_batch(self) -> None:
        # A function of its own, so that no variable keeps the last observation, which may lie in
        # a robot's memory, while `run` waits for the next.
        if jobs := self._next_batch():
            self._source.begin(self._usual_s)
            self._source.report(self._answers(jobs))

    def _next_batch(self) -> list[Job]:
        source = self._source
        if source.jobs:
            source.wait(0.0)  # others may have come during the last inference
        while not source.jobs and source.is_open:
            source.wait(_FOR_EVER)
        full_at = time.monotonic() + self._batch_wait_s
        while len(source.jobs) < self.largest_batch and source.is_open:
            if self.largest_batch == 1 or time.monotonic() >= full_at:
                break
            source.wait(full_at)
        if not source.is_open:
            return []  # nobody would get the answers
        return [source.jobs.popleft() for _ in range(min(self.largest_batch, len(source.jobs)))]

    def _answers(self, jobs: list[Job]) -> list[Answer]:
        started = time.monotonic()
        in_time: list[Job] = []
        answers: list[Answer] = []
        observations: list[Observation] = []
        for job in jobs:
            if started <= _deadline(job):
                in_time.append(job)
                observations.append(_seeded(job))
            else:
                late = errors.DeadlineExceeded("its deadline passed before the worker came to it")
                answers.append(failed(job, late))
        results = self._infer_usable(observations)
        spent_s = time.monotonic() - started
        self._usual_s = spent_s if self._usual_s == _FOR_EVER else (self._usual_s + spent_s) / 2
        infer_ms = spent_s * 1e3
        if self._guards is not None:
            results = list(map(self._guarded, results, observations))
        for job, result in zip(in_time, results, strict=True):
            answers.append(answered(job, result, started, infer_ms, len(in_time)))
        return answers

    def _infer_usable(self, observations: list[Observation]) -> Sequence[Any]:
        """As `_infer`, but a leftover never reaches a policy that cannot continue it."""
        for observation in observations:
            if observation.get("prev_actions") is not None:
                break
        else:
            return self._infer(observations)
        # Read each time: a policy that downloads its files has its metadata only once loaded.
        if getattr(self._policy, "metadata", {}).get("rtc"):
            return self._infer(observations)
        usable = [o for o in observations if o.get("prev_actions") is None]
        results = iter(self._infer(usable))
        return [
            next(results) if o.get("prev_actions") is None else NO_CHUNKING for o in observations
        ]

    def _infer(self, observations: list[Observation]) -> Sequence[Any]:
        """A result or an exception for each observation; raises an error of the device itself."""
        if len(observations) == 1:
            return [self._infer_one(observations[0])]
        if self._infer_batch is None:
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

    def _guarded(self, result: Any, observation: Observation) -> Any:
        """The result with the actions that its robot may get, or why it gets none."""
        if self._guards is None or not has_actions(result):
            return result
        try:
            return self._guards.judge(result, observation)
        except errors.PolicyError as error:
            return error

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
    return {**job.observation, "seed": seed_of(job.header["id"])}
