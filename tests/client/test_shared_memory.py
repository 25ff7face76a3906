"""The robot's side of shared memory: what it writes, what it says of it, and what it leaves."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import msgpack
import numpy as np
import pytest

from client.errors import ProtocolError
from client.shared_memory import (
    COUNT,
    F_GET_SEALS,
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    NONCE_BYTES,
    SEALS,
    TRUSTED_AFTER,
    Negotiation,
    Reference,
    Regions,
    SharedMemory,
)
from client.wire import MAX_FRAMES, MAX_MEMORY

SOUND = Reference(4711, 9, 4096, b"n" * NONCE_BYTES, [(64, 100), (192, 0)])


def write(memory: SharedMemory, *buffers: bytes) -> Reference:
    packed = memory.write([memoryview(buffer) for buffer in buffers])
    assert packed is not None
    return Reference.unpack(packed.reference)


def stored(reference: Reference) -> list[bytes]:
    return [os.pread(reference.fd, length, offset) for offset, length in reference.ranges]


def test_what_was_written_lies_where_the_reference_says() -> None:
    memory = SharedMemory()
    reference = write(memory, b"one", b"", b"three" * 1000)
    assert stored(reference) == [b"one", b"", b"three" * 1000]
    assert os.pread(reference.fd, NONCE_BYTES, 0) == reference.nonce
    assert reference.pid == os.getpid()
    memory.close()


def test_a_region_is_made_once_and_reused() -> None:
    memory = SharedMemory()
    first = write(memory, b"a" * 1000)
    second = write(memory, b"b" * 1000, b"c" * 1000)
    assert first[:4] == second[:4]
    assert stored(second) == [b"b" * 1000, b"c" * 1000]
    memory.close()


def test_a_larger_observation_gets_a_larger_region_and_the_old_one_is_given_back() -> None:
    memory = SharedMemory()
    before = len(os.listdir("/proc/self/fd"))
    first = write(memory, b"a" * 1000)
    second = write(memory, bytes(10_000_000))
    assert second.size > 10_000_000 > first.size
    assert second.nonce != first.nonce
    assert len(os.listdir("/proc/self/fd")) == before + 2  # the file, and the mapping's own of it
    memory.close()
    assert len(os.listdir("/proc/self/fd")) == before
    memory.close()


def test_each_writing_has_a_count_which_stands_in_the_region() -> None:
    memory = SharedMemory()
    for expected in (1, 2, 3):
        written = memory.write([b"one"])
        assert written is not None
        reference = Reference.unpack(written.reference)
        stands = os.pread(reference.fd, COUNT.stop - COUNT.start, COUNT.start)
        assert written.times == int.from_bytes(stands, "little") == expected
    memory.close()


def test_its_size_cannot_be_changed_by_anybody() -> None:
    memory = SharedMemory()
    reference = write(memory, b"a")
    assert fcntl.fcntl(reference.fd, F_GET_SEALS) == SEALS
    for size in (0, reference.size - 1, reference.size + 1):
        with pytest.raises(PermissionError):
            os.ftruncate(reference.fd, size)
    memory.close()


def test_arrays_of_any_dtype_are_copied_byte_for_byte() -> None:
    memory = SharedMemory()
    array = np.arange(10_000, dtype=np.float64)
    packed = memory.write([array.reshape(-1).view(np.uint8).data])
    assert packed is not None
    (data,) = stored(Reference.unpack(packed.reference))
    assert data == array.tobytes()
    memory.close()


def test_a_system_without_anonymous_files_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError("not here")

    monkeypatch.setattr(os, "memfd_create", fail)
    assert SharedMemory().write([b"a"]) is None


def test_a_system_without_memory_to_give_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space")

    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "posix_fallocate", fail)
    memory = SharedMemory()
    assert memory.write([b"a"]) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_longest_reference_fits_its_header_field() -> None:
    memory = SharedMemory()
    packed = memory.write([bytes(20_000)] * (MAX_FRAMES - 2))
    assert packed is not None
    assert len(packed.reference) <= MAX_MEMORY
    memory.close()


def test_packing_and_unpacking() -> None:
    assert Reference.unpack(SOUND.pack()) == SOUND


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc1",
        msgpack.packb(7),
        msgpack.packb([1, 2, 3]),
        msgpack.packb({"pid": 1}),
        SOUND.pack()[:-1],
        SOUND.pack() + b"\x00",
        SOUND._replace(pid=0).pack(),
        SOUND._replace(pid=-1).pack(),
        SOUND._replace(pid=2**40).pack(),
        SOUND._replace(pid=True).pack(),
        SOUND._replace(fd=2**40).pack(),
        SOUND._replace(fd="../../../etc/passwd").pack(),  # type: ignore[arg-type]
        SOUND._replace(size=1.5).pack(),  # type: ignore[arg-type]
        SOUND._replace(nonce=b"short").pack(),
        SOUND._replace(nonce="n" * NONCE_BYTES).pack(),  # type: ignore[arg-type]
        SOUND._replace(ranges=[(64, 4096)]).pack(),
        SOUND._replace(ranges=[(-64, 10)]).pack(),
        SOUND._replace(ranges=[(0, 10)]).pack(),
        SOUND._replace(ranges=[(64, -1)]).pack(),
        SOUND._replace(ranges=[(64, 2**63)]).pack(),
        SOUND._replace(ranges=[(64,)]).pack(),  # type: ignore[list-item]
        SOUND._replace(ranges=7).pack(),  # type: ignore[arg-type]
        SOUND._replace(ranges=[(64, 1)] * MAX_FRAMES).pack(),
    ],
)
def test_what_is_no_reference_is_refused(packed: bytes) -> None:
    with pytest.raises(ProtocolError):
        Reference.unpack(packed)


def test_nothing_of_it_has_a_name_in_the_file_system() -> None:
    before = set(Path("/dev/shm").iterdir())
    memory = SharedMemory()
    reference = write(memory, b"a")
    assert set(Path("/dev/shm").iterdir()) == before
    assert "(deleted)" in os.readlink(f"/proc/self/fd/{reference.fd}")
    memory.close()


def test_memory_is_used_once_a_worker_says_that_it_is_on_this_host() -> None:
    talk = Negotiation(b"here")
    assert talk.offer(0.0) == {"host": b"here"}
    for other in (None, b"there", b""):
        talk.answered(other)
        assert not talk.is_on
    talk.answered(b"here")
    assert talk.is_on


def test_a_robot_that_cannot_share_never_offers_it() -> None:
    talk = Negotiation(b"")
    assert talk.offer(0.0) == {}
    talk.answered(b"")
    talk.answered(None)
    talk.failed(0.0)
    assert not talk.is_on


def test_after_a_failure_it_is_offered_again_later_each_time() -> None:
    talk, now = Negotiation(b"here"), 0.0
    pauses: list[float] = []
    for _ in range(20):
        talk.answered(b"here")
        talk.failed(now)
        begun = now
        while not talk.offer(now):
            now += 0.25
        pauses.append(now - begun)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (FIRST_PAUSE_S, LONGEST_PAUSE_S)


def test_after_many_successes_a_failure_costs_little_again() -> None:
    talk = Negotiation(b"here")
    for _ in range(10):
        talk.answered(b"here")
        talk.failed(0.0)
    talk.answered(b"here")
    for _ in range(TRUSTED_AFTER):
        talk.answered(None)
    talk.failed(0.0)
    assert talk.offer(FIRST_PAUSE_S) == {"host": b"here"}


def test_a_forked_child_does_not_write_into_its_parents_memory() -> None:
    memory = SharedMemory()
    reference = write(memory, b"parent")
    child = os.fork()
    if not child:
        os._exit(0 if memory.write([b"child!"]) is None else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert stored(reference) == [b"parent"]
    memory.close()


def test_calls_at_once_have_regions_of_their_own_and_later_ones_reuse_them() -> None:
    regions = Regions()
    first, second = regions.take(), regions.take()
    assert first is not second
    write(first, b"a")
    regions.give_back(first)
    assert regions.take() is first
    regions.give_back(first)
    regions.give_back(second)
    regions.close()
    assert regions.take() not in (first, second)
