"""The reader's side of shared memory: robots are other processes, and not all of them friends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from client import memory_reader
from client.errors import MemoryUnreachable, ProtocolError
from client.memory_reader import Mappings
from client.shared_memory import NONCE_BYTES, Reference, SharedMemory, host_token

MAX_BYTES = 16_000_000
ROBOT = """
import os, sys
from client.shared_memory import SharedMemory, host_token
if len(sys.argv) > 1:
    os.setgroups([])
    os.setuid(int(sys.argv[1]))
memory = SharedMemory()
print(host_token().hex(), flush=True)
for line in sys.stdin:
    byte, length = line.split()
    print(memory.write([bytes([int(byte)]) * int(length)]).reference.hex(), flush=True)
"""
IS_ROOT = os.geteuid() == 0
NOBODY = 65534


class Robot:
    """Another process with memory of its own."""

    def __init__(self, *prefix: str, user: int | None = None) -> None:
        command = [*prefix, sys.executable, "-c", ROBOT, *([] if user is None else [str(user)])]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.token = bytes.fromhex(self._answer())

    def write(self, byte: int, length: int = 1000) -> bytes:
        """Have it fill its memory; returns its reference."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{byte} {length}\n")
        self._process.stdin.flush()
        return bytes.fromhex(self._answer())

    def kill(self) -> None:
        """As kill -9 does; returns when it is over."""
        self._process.send_signal(signal.SIGKILL)
        self._process.communicate()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


@pytest.fixture
def robot() -> Iterator[Robot]:
    robot = Robot()
    yield robot
    robot.kill()


@pytest.fixture
def mappings() -> Iterator[Mappings]:
    mappings = Mappings(MAX_BYTES)
    yield mappings
    mappings.close()
    assert not mapped()


def mapped() -> list[str]:
    """What this process has mapped of robots' memory."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if "memfd:observations" in line]


def altered(packed: bytes, **fields: object) -> bytes:
    return Reference.unpack(packed)._replace(**fields).pack()  # type: ignore[arg-type]


def test_a_worker_reads_what_a_robot_wrote(robot: Robot, mappings: Mappings) -> None:
    (view,) = mappings.read(robot.write(7, 300_000))
    assert view == bytes([7]) * 300_000
    assert view.readonly


def test_the_next_request_reads_through_the_same_mapping(robot: Robot, mappings: Mappings) -> None:
    mappings.read(robot.write(7))
    (view,) = mappings.read(robot.write(8))
    assert view == bytes([8]) * 1000
    assert len(mappings) == len(mapped()) == 1


def test_two_workers_read_the_same_request(robot: Robot, mappings: Mappings) -> None:
    reference = robot.write(7)
    mappings.read(reference)
    other = Mappings(MAX_BYTES)
    (view,) = other.read(reference)
    assert view == bytes([7]) * 1000


def test_the_memory_of_a_killed_robot_is_whole_while_used_and_gone_after(
    mappings: Mappings,
) -> None:
    robot = Robot()
    (view,) = mappings.read(robot.write(7, 300_000))
    robot.kill()
    mappings.forget_closed()
    assert len(mappings) == 0
    assert view == bytes([7]) * 300_000
    del view
    assert not mapped()


def test_an_outgrown_region_is_let_go(robot: Robot, mappings: Mappings) -> None:
    mappings.read(robot.write(7))
    (view,) = mappings.read(robot.write(8, 5_000_000))
    assert len(view) == 5_000_000
    mappings.forget_closed()
    assert len(mappings) == len(mapped()) == 1


def test_a_living_robot_is_not_forgotten(robot: Robot, mappings: Mappings) -> None:
    mappings.read(robot.write(7))
    mappings.forget_closed()
    assert len(mappings) == 1


def test_the_reference_of_a_killed_robot_leads_nowhere(mappings: Mappings) -> None:
    robot = Robot()
    reference = robot.write(7)
    robot.kill()
    with pytest.raises(MemoryUnreachable, match="cannot be opened"):
        mappings.read(reference)


def test_whoever_copies_learns_whether_the_robot_has_written_since(
    robot: Robot, mappings: Mappings
) -> None:
    reference = robot.write(7)
    first = mappings.snapshot(reference, 1)
    assert first is not None
    assert robot.write(8) == reference
    assert mappings.snapshot(reference, 1) is None
    second = mappings.snapshot(reference, 2)
    assert second is not None
    assert (set(first[0]), set(second[0])) == ({7}, {8})
    robot.kill()
    mappings.close()
    with pytest.raises(MemoryUnreachable, match="cannot be opened"):
        mappings.snapshot(reference, 2)


def test_another_process_with_the_same_id_is_not_believed(robot: Robot, mappings: Mappings) -> None:
    mine = SharedMemory()
    written = mine.write([b"secret"])
    assert written is not None
    wrong = altered(written.reference, nonce=bytes(NONCE_BYTES))
    with pytest.raises(MemoryUnreachable, match="another process"):
        mappings.read(wrong)
    mine.close()


def unsealed() -> int:
    file = os.memfd_create("unsealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.truncate(file, 4096)
    return file


def never_sealed() -> int:
    file = os.memfd_create("never", os.MFD_CLOEXEC)
    os.truncate(file, 4096)
    return file


def a_file() -> int:
    return os.open(__file__, os.O_RDONLY)


def a_pipe() -> int:
    return os.pipe()[0]


def a_device() -> int:
    return os.open("/dev/zero", os.O_RDONLY)


def a_folder() -> int:
    return os.open("/", os.O_RDONLY)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (unsealed, "not sealed"),
        (never_sealed, "not sealed"),
        (a_file, "no anonymous file"),
        (a_pipe, "no anonymous file"),
        (a_device, "no anonymous file"),
        (a_folder, "no anonymous file"),
        (lambda: 1_000_000, "cannot be opened"),
    ],
)
def test_nothing_else_is_opened(make: Callable[[], int], reason: str, mappings: Mappings) -> None:
    file = make()
    named = Reference(os.getpid(), file, 4096, bytes(NONCE_BYTES), [(64, 100)])
    with pytest.raises(MemoryUnreachable, match=reason):
        mappings.read(named.pack())
    if file < 1_000_000:
        os.close(file)


def test_a_named_pipe_without_a_writer_does_not_hang(tmp_path: Path, mappings: Mappings) -> None:
    os.mkfifo(tmp_path / "pipe")
    file = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    named = Reference(os.getpid(), file, 4096, bytes(NONCE_BYTES), [(64, 100)])
    with pytest.raises(MemoryUnreachable):
        mappings.read(named.pack())
    os.close(file)


def test_a_size_that_is_not_the_files(robot: Robot, mappings: Mappings) -> None:
    reference = robot.write(7)
    size = Reference.unpack(reference).size
    for wrong in (size - 4096, size + 4096):
        with pytest.raises(MemoryUnreachable, match="bytes, not"):
            mappings.read(altered(reference, size=wrong))
    mappings.read(reference)
    with pytest.raises(MemoryUnreachable, match="another size"):
        mappings.read(altered(reference, size=size + 4096))


def test_more_than_a_message_may_have(robot: Robot, mappings: Mappings) -> None:
    with pytest.raises(MemoryUnreachable, match="are allowed"):
        mappings.read(robot.write(7, MAX_BYTES + 1))


def test_a_limit_that_becomes_smaller_holds_for_what_was_read_before(
    robot: Robot, mappings: Mappings
) -> None:
    reference = robot.write(7, 1000)
    mappings.read(reference)
    mappings.max_bytes = 999
    with pytest.raises(MemoryUnreachable, match="999 are allowed"):
        mappings.read(reference)
    mappings.max_bytes = 1000
    mappings.read(reference)


def test_a_file_larger_than_all_that_may_be_mapped(robot: Robot, mappings: Mappings) -> None:
    with pytest.raises(MemoryUnreachable, match="more than may be mapped"):
        mappings.read(altered(robot.write(7), size=2**40))


def test_garbage_is_a_protocol_error(mappings: Mappings) -> None:
    with pytest.raises(ProtocolError):
        mappings.read(b"garbage")


def test_refusals_leave_no_descriptor_open(robot: Robot, mappings: Mappings) -> None:
    reference = robot.write(7)
    before = os.listdir("/proc/self/fd")
    for wrong in (altered(reference, nonce=bytes(NONCE_BYTES)), altered(reference, size=8192)):
        with pytest.raises(MemoryUnreachable):
            mappings.read(wrong)
    assert os.listdir("/proc/self/fd") == before


def test_as_many_robots_as_may_be_are_kept(
    robot: Robot, mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_reader, "MOST_MAPPINGS", 1)
    mine = SharedMemory()
    written = mine.write([b"mine"])
    assert written is not None
    mappings.read(robot.write(7))
    for _ in range(2):
        assert bytes(mappings.read(written.reference)[0]) == b"mine"
        assert mappings.read(robot.write(8))[0] == bytes([8]) * 1000
        assert len(mappings) == len([line for line in mapped() if "r--s" in line]) == 1
    mine.close()


def test_as_many_bytes_as_may_be_are_kept(
    robot: Robot, mappings: Mappings, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = robot.write(7)
    size = Reference.unpack(reference).size
    mine = SharedMemory()
    own = mine.write([bytes(1000)])
    assert own is not None
    monkeypatch.setattr(memory_reader, "MOST_BYTES", size)
    mappings.read(own.reference)
    (view,) = mappings.read(reference)
    mine.close()
    assert len(mappings) == 1
    assert view == bytes([7]) * 1000


def test_processes_of_one_user_on_one_host_know_each_other(robot: Robot) -> None:
    assert robot.token == host_token() != b""


@pytest.mark.skipif(not IS_ROOT, reason="only root may start a process of another user")
def test_another_users_memory_is_neither_offered_nor_read(mappings: Mappings) -> None:
    other = Robot(user=NOBODY)
    assert other.token != host_token()
    with pytest.raises(MemoryUnreachable, match="another user"):
        mappings.read(other.write(7))
    other.kill()


@pytest.mark.skipif(not IS_ROOT, reason="only root may make a process namespace")
def test_a_robot_in_another_container_is_neither_offered_nor_found(mappings: Mappings) -> None:
    other = Robot("unshare", "--pid", "--fork", "--kill-child")
    assert other.token != host_token()
    with pytest.raises(MemoryUnreachable):
        mappings.read(other.write(7))
    other.kill()


def test_other_ranges_of_the_same_memory_are_read_anew(robot: Robot, mappings: Mappings) -> None:
    reference = Reference.unpack(robot.write(7))
    ((start, _),) = reference.ranges
    for lengths in ([1000], [10, 20], [1000], [5]):
        ranges = [(start, length) for length in lengths]
        for _ in range(2):
            views = mappings.read(reference._replace(ranges=ranges).pack())
            assert [len(view) for view in views] == lengths
    assert len(mappings) == len(mapped()) == 1
