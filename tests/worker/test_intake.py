"""From a request's frames to a job: in memory or not, with compressed images or without."""

from __future__ import annotations

import io
import queue
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from client.body import encode_body
from client.errors import MemoryUnreachable, ProtocolError
from client.shared_memory import NONCE_BYTES, Reference, SharedMemory, host_token
from client.wire import Header, RequestId
from worker.answers import Answer, Job
from worker.intake import Intake

WAIT_S = 60.0
REQUEST: Header = {"id": RequestId(bytes(16), 1), "attempt": 1, "epoch": 1}
PICTURE = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)


class Writes:
    """A policy that may write into its observation."""

    image_layouts = {("image",): "hwc"}  # noqa: RUF012 - read only

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Never called."""
        raise NotImplementedError


class Reads(Writes):
    """One that promises not to."""

    reads_only = True


class Taken:
    """An intake and what came out of it later."""

    def __init__(self, policy: Writes) -> None:
        self.later: queue.SimpleQueue[Job | Answer] = queue.SimpleQueue()
        self.intake = Intake(policy, self.later.put, self.later.put)

    def job(self, observation: dict[str, Any], **fields: Any) -> Job:
        """One that needed nothing more."""
        job = self.intake.take({**REQUEST, **fields}, encode_body(observation))  # type: ignore[arg-type]
        assert job is not None
        return job


@pytest.fixture
def taken() -> Iterator[Taken]:
    taken = Taken(Writes())
    yield taken
    taken.intake.close()


@pytest.fixture
def reading() -> Iterator[Taken]:
    taken = Taken(Reads())
    yield taken
    taken.intake.close()


@pytest.fixture
def memory() -> Iterator[SharedMemory]:
    memory = SharedMemory()
    yield memory
    memory.close()


def in_memory(memory: SharedMemory, observation: dict[str, Any]) -> tuple[Header, Any]:
    body, *buffers = encode_body(observation)
    return {**REQUEST, "memory": reference_to(memory, buffers)}, [body]


def reference_to(memory: SharedMemory, buffers: Sequence[bytes | memoryview]) -> bytes:
    """What a request names the buffers by, once they were written."""
    written = memory.write(buffers)
    assert written is not None
    return written.reference


def file_of(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_request_by_bytes(taken: Taken) -> None:
    job = taken.job({"state": np.zeros(3), "image": PICTURE})
    np.testing.assert_array_equal(job.observation["image"], PICTURE)
    assert job.decode_ms >= 0.0


def test_what_is_no_body_is_refused(taken: Taken) -> None:
    with pytest.raises(ProtocolError):
        taken.intake.take(REQUEST, [b"\xc1"])


def test_a_request_in_memory_gives_the_same_arrays(taken: Taken, memory: SharedMemory) -> None:
    request, payload = in_memory(memory, {"image": PICTURE, "state": np.zeros(3)})
    job = taken.intake.take(request, payload)
    assert job is not None
    np.testing.assert_array_equal(job.observation["image"], PICTURE)
    np.testing.assert_array_equal(job.observation["state"], np.zeros(3))


def test_a_policy_that_may_write_has_arrays_of_its_own(taken: Taken, memory: SharedMemory) -> None:
    job = taken.intake.take(*in_memory(memory, {"image": PICTURE}))
    assert job is not None
    memory.write([bytes(PICTURE.nbytes)])
    np.testing.assert_array_equal(job.observation["image"], PICTURE)
    job.observation["image"][:] = 0


def test_a_policy_that_only_reads_reads_in_place(reading: Taken, memory: SharedMemory) -> None:
    job = reading.intake.take(*in_memory(memory, {"image": PICTURE}))
    assert job is not None
    np.testing.assert_array_equal(job.observation["image"], PICTURE)
    assert not job.observation["image"].flags.writeable
    memory.write([bytes(PICTURE.nbytes)])
    assert not job.observation["image"].any()  # a robot that scribbles changes its own picture


@pytest.mark.parametrize("kind", ["reading", "taken"])
def test_memory_that_cannot_be_reached(kind: str, request: pytest.FixtureRequest) -> None:
    intake = request.getfixturevalue(kind).intake
    nowhere = Reference(2**22, 5, 4096, bytes(NONCE_BYTES), []).pack()
    with pytest.raises(MemoryUnreachable):
        intake.take({**REQUEST, "memory": nowhere}, [b"\x80"])


def test_more_buffers_than_the_body_has_arrays(reading: Taken, memory: SharedMemory) -> None:
    reference = reference_to(memory, [b"one", b"too many"])
    with pytest.raises(ProtocolError, match="belong to no array"):
        reading.intake.take({**REQUEST, "memory": reference}, [b"\x80"])


def test_a_request_without_a_body_is_refused(reading: Taken, memory: SharedMemory) -> None:
    with pytest.raises(ProtocolError):
        reading.intake.take({**REQUEST, "memory": reference_to(memory, [b"one"])}, [])


def test_the_brokers_limit_holds_for_memory_too(reading: Taken, memory: SharedMemory) -> None:
    reading.intake.allow(1000)
    large = in_memory(memory, {"image": np.zeros(3_000_000, np.uint8)})
    with pytest.raises(MemoryUnreachable, match="1000 are allowed"):
        reading.intake.take(*large)


def test_memory_whose_robot_is_gone_is_let_go(reading: Taken, memory: SharedMemory) -> None:
    reading.intake.take(*in_memory(memory, {"image": PICTURE}))
    reading.intake.tidy(100.0)
    assert len(reading.intake._mappings) == 1
    memory.close()
    reading.intake.tidy(100.5)
    assert len(reading.intake._mappings) == 1
    reading.intake.tidy(101.0)
    assert len(reading.intake._mappings) == 0


def test_compressed_images_come_later(taken: Taken) -> None:
    payload = encode_body({"image": file_of(PICTURE), "prompt": "go"})
    assert taken.intake.take(REQUEST, payload) is None  # type: ignore[arg-type]
    job = taken.later.get(timeout=WAIT_S)
    assert isinstance(job, Job)
    np.testing.assert_array_equal(job.observation["image"], PICTURE)
    assert (job.observation["prompt"], job.header) == ("go", REQUEST)
    assert job.decode_ms > 0.0


def test_compressed_images_in_memory(reading: Taken, memory: SharedMemory) -> None:
    file = np.frombuffer(file_of(PICTURE), np.uint8)
    assert reading.intake.take(*in_memory(memory, {"image": file})) is None
    job = reading.later.get(timeout=WAIT_S)
    assert isinstance(job, Job)
    np.testing.assert_array_equal(job.observation["image"], PICTURE)


def test_a_damaged_image_fails_its_request_by_name(taken: Taken) -> None:
    taken.intake.take(REQUEST, encode_body({"image": file_of(PICTURE)[:1000]}))  # type: ignore[arg-type]
    answer = taken.later.get(timeout=WAIT_S)
    assert isinstance(answer, Answer)
    assert answer.job.header == REQUEST
    assert (answer.fields["kind"], answer.fields["code"]) == ("failure", "bad_observation")
    assert answer.fields["message"].startswith("image: a damaged PNG image")


def test_only_a_robot_of_this_host_is_told_that_memory_can_be_shared(taken: Taken) -> None:
    here = host_token()
    assert taken.intake.fields_for({**REQUEST, "host": here}) == {"host": here}
    assert taken.intake.fields_for({**REQUEST, "host": b"elsewhere"}) == {}
    assert taken.intake.fields_for(REQUEST) == {}
