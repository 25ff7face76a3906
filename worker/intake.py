"""From a message to a job for the inference thread: memory, decoding, compressed images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from client.body import Observation, decode_body
from client.errors import BadObservation
from client.memory_reader import Mappings
from client.shared_memory import host_token
from client.wire import Frame, Header
from worker.answers import Answer, Job, failed
from worker.images import ImageDecoder
from worker.policy import Policy

MAX_BYTES = 16_000_000
"""The largest observation in shared memory, until the broker has said what it allows."""

_LOOK_S = 1.0  # between two searches for memory whose robots have gone


class Intake:
    """Makes jobs of requests. One thread calls it; images are decoded on others."""

    def __init__(
        self, policy: Policy, give: Callable[[Job], None], report: Callable[[Answer], None]
    ) -> None:
        """`give` and `report` are called from other threads, after a job's images were decoded.

        `give` gets a job that is ready, `report` the answer to a job with a faulty image.
        """
        self._give, self._report = give, report
        self._images = ImageDecoder(getattr(policy, "image_layouts", {}))
        self._in_place = bool(getattr(policy, "reads_only", False))
        self._mappings = Mappings(MAX_BYTES)
        self._host = host_token()
        self._look_at = 0.0

    def take(self, request: Header, payload: Sequence[Frame]) -> Job | None:
        """Decode one request; None where its images come first, and `give` or `report` follows.

        Raises:
            client.errors.ProtocolError: the body cannot be decoded.
            client.errors.MemoryUnreachable: the robot's memory cannot be read from here.
        """
        started = time.monotonic()
        observation = decode_body(self._frames(request, payload))
        if self._images.decode(observation, partial(self._decoded, request, started)):
            return None
        return Job(request, observation, started, (time.monotonic() - started) * 1e3)

    def fields_for(self, request: Header) -> Header:
        """Further header fields of a result, which say whether memory could be shared."""
        if self._host and request.get("host") == self._host:
            return {"host": self._host}
        return {}

    def allow(self, max_bytes: int) -> None:
        """Take observations of at most so many bytes from shared memory."""
        self._mappings.max_bytes = max_bytes

    def tidy(self, now: float) -> None:
        """Let go of the memory of robots that have gone; cheap to call often."""
        if now >= self._look_at:
            self._look_at = now + _LOOK_S
            self._mappings.forget_closed()

    def close(self) -> None:
        """End the threads and let go of all memory."""
        self._images.close()
        self._mappings.close()

    def _frames(self, request: Header, payload: Sequence[Frame]) -> Sequence[Frame | memoryview]:
        if "memory" not in request or not payload:
            return payload
        views = self._mappings.read(request["memory"])
        if self._in_place:
            return [payload[0], *views]
        # A policy that has not promised to leave its observation unchanged gets a copy.
        return [payload[0], *(memoryview(bytearray(view)) for view in views)]

    def _decoded(
        self, request: Header, started: float, result: Observation | BadObservation
    ) -> None:
        decode_ms = (time.monotonic() - started) * 1e3
        if isinstance(result, BadObservation):
            self._report(failed(Job(request, {}, started, decode_ms), result))
        else:
            self._give(Job(request, result, started, decode_ms))
