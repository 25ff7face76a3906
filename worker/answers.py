"""Jobs of the inference thread, and the answers that results of a policy become."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from client import errors
from client.body import encode_body
from client.wire import Header, RequestId
from worker.robots.guards import CLIPPED, header_fields

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
        """The request's id."""
        request: RequestId = self.header["id"]
        return request


@dataclass(slots=True)
class Answer:
    """The answer to a job: its header's fields and its payload."""

    job: Job
    fields: Header
    payload: Sequence[bytes | memoryview] = ()


def answered(job: Job, result: Any, started: float, infer_ms: float, batch: int) -> Answer:
    """The answer that a policy's result is, or the failure that it has to be.

    `started`: when the batch of `batch` jobs began, which took `infer_ms`.
    """
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
    fields: Header = {"kind": "result", "timing": timing}
    if batch > 1:
        fields["batch"] = batch
    fields.update(header_fields(result.get(CLIPPED)))
    return Answer(job, fields, payload)


def has_actions(result: Any) -> bool:
    """Whether it is a result as robots are to get it."""
    return isinstance(result, dict) and isinstance(result.get("actions"), np.ndarray)


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
    if not has_actions(result):
        raise errors.PolicyFailed(
            "the policy answered something other than a dict whose `actions` are a numpy array"
        )
    try:
        return encode_body({"policy_timing": {"infer_ms": infer_ms}, **result}, buffers=buffers)
    except errors.BadObservation as error:
        raise errors.PolicyFailed(f"the policy's answer cannot be sent: {error}") from error


def failed(job: Job, error: errors.PolicyError) -> Answer:
    """The answer to a job that failed."""
    breaches = error.breaches if isinstance(error, errors.GuardBreached) else None
    return Answer(job, {"kind": "failure", **errors.to_wire(error), **header_fields(breaches)})
