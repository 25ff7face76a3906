"""Large arrays through shared memory, where robot and worker are processes on one machine.

The robot writes its arrays into an anonymous file (`memfd`) that it makes once and reuses; the
request that goes through ZeroMQ names it, and the worker opens it as `/proc/PID/fd/N`.

Why this way, and not another:

- A named file in /dev/shm would have to be removed, and stays behind when its owner is killed. An
  anonymous file ends with the last process that holds it.
- A file descriptor sent over a Unix socket needs a connection from each robot to each worker,
  beside the broker that chooses between them.
- `pidfd_getfd` needs the right to trace the other process, which many distributions withhold.
  `/proc/PID/fd` needs no more than the same user in the same process namespace.

A reference proves itself: the file begins with a random nonce that only its owner and those whom
it told know. A process id that was given to another process, another container or another machine
cannot have it, so no reference leads to anything but the memory that was meant. `host_token` only
says beforehand whether a try is worth while.

Behind the nonce stands how often the region was written, counted up before its bytes change. The
request says the count that belongs to it, so whoever copies the arrays, and then reads the same
count, has that request's (a recorder does; a worker need not, as the robot waits for its answer).

One region is enough. `infer` returns before the next observation is written, and until then a
retry at another worker finds the same bytes. A request that the robot gave up may see newer ones,
but nobody takes its answer.
"""

from __future__ import annotations

import functools
import hashlib
import mmap
import os
from typing import NamedTuple, Sequence

import msgpack

from client.errors import ProtocolError
from client.wire import MAX_FRAMES, MAX_MEMORY

NONCE_BYTES = 16  # at the file's beginning
COUNT = slice(NONCE_BYTES, NONCE_BYTES + 8)  # where the count stands, little-endian
# Python 3.8 has no names for these: linux/fcntl.h.
F_ADD_SEALS, F_GET_SEALS = 1033, 1034
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW = 1, 2, 4
# A file that keeps its size can be mapped without fear of SIGBUS.
SEALS = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 600.0  # without memory, after it could not be reached
TRUSTED_AFTER = 1000  # requests through memory in a row; the next pause is a short one again

_ALIGNMENT = 64  # bytes, as vector instructions like them
_STEP = 256 * 1024  # sizes are multiples: observations a little larger need no new file
_LARGEST_PID = 2**22  # linux/threads.h, PID_MAX_LIMIT
_LARGEST_FD = 2**31 - 1


class Reference(NamedTuple):
    """Where a request's buffers lie: whose file it is, and (offset, length) of each, in bytes."""

    pid: int
    fd: int
    size: int
    nonce: bytes
    ranges: list[tuple[int, int]]

    def pack(self) -> bytes:
        """As the header field `memory` holds it."""
        packed: bytes = msgpack.packb(self)
        return packed

    @classmethod
    def unpack(cls, packed: bytes) -> Reference:
        """`pack`'s opposite, for bytes that came from outside.

        Raises:
            ProtocolError: not a reference, or ranges that do not lie within the file.
        """
        try:
            pid, fd, size, nonce, ranges = msgpack.unpackb(packed)
            pairs = [(offset, length) for offset, length in ranges]
        except (ValueError, TypeError, msgpack.UnpackException) as error:
            raise ProtocolError("header field 'memory' is not a reference to memory") from error
        numbers = [pid, fd, size, *(number for pair in pairs for number in pair)]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ProtocolError("header field 'memory' holds something else than counts")
        if not 0 < pid <= _LARGEST_PID or fd > _LARGEST_FD or len(pairs) > MAX_FRAMES - 2:
            raise ProtocolError("header field 'memory' is out of range")
        if type(nonce) is not bytes or len(nonce) != NONCE_BYTES:
            raise ProtocolError(f"header field 'memory' has no nonce of {NONCE_BYTES} bytes")
        if any(offset < NONCE_BYTES or offset + length > size for offset, length in pairs):
            raise ProtocolError(f"header field 'memory' names bytes outside its {size}")
        return cls(pid, fd, size, nonce, pairs)


class Written(NamedTuple):
    """What was written: a packed `Reference`, and how often the region was, which stands in it."""

    reference: bytes
    times: int


class SharedMemory:
    """A robot's region, made when it is first needed. Not thread-safe."""

    def __init__(self) -> None:
        self._fd = -1
        self._size = 0
        self._owner = 0  # process
        self._nonce = b""
        self._count = 0
        # The last reference, and the ranges in it.
        self._said: tuple[list[tuple[int, int]] | None, bytes] = None, b""
        self._mapping: mmap.mmap | None = None

    def write(self, buffers: Sequence[bytes | memoryview]) -> Written | None:
        """Copy `buffers` into the region; None without memory.

        What was written before is overwritten. The buffers must be C-contiguous.
        """
        ranges, end = [], COUNT.stop
        for buffer in buffers:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT
            end = start + len(buffer)
            ranges.append((start, len(buffer)))
        if end > self._size and not self._make(end):
            return None
        mapping, owner = self._mapping, os.getpid()
        if mapping is None or owner != self._owner:  # in a fork it is the parent's memory
            return None
        self._count += 1
        mapping[COUNT] = self._count.to_bytes(8, "little")
        for (start, length), buffer in zip(ranges, buffers):
            mapping[start : start + length] = buffer
        before, packed = self._said
        if ranges != before:  # rarely, since a robot's observations are alike
            packed = Reference(owner, self._fd, self._size, self._nonce, ranges).pack()
            self._said = ranges, packed
        return Written(packed, self._count) if len(packed) <= MAX_MEMORY else None

    def close(self) -> None:
        """Give the memory back; `write` would make it anew. Workers let go within a second."""
        if self._mapping is not None:
            self._mapping.close()
            os.close(self._fd)
        self._mapping, self._fd, self._size = None, -1, 0

    def _make(self, needed: int) -> bool:
        """Make a region of at least so many bytes; False where the system has none to give."""
        import fcntl  # not on every system that a robot's program may be developed on

        self.close()
        size = -(-needed // _STEP) * _STEP
        fd = -1
        try:
            fd = os.memfd_create("observations", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            # Allocated now: writing to a page that cannot be had later would end the process.
            os.posix_fallocate(fd, 0, size)
            fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
            mapping = mmap.mmap(fd, size)
        except (OSError, AttributeError):
            if fd >= 0:
                os.close(fd)
            return False
        self._nonce, self._said = os.urandom(NONCE_BYTES), (None, b"")
        mapping[:NONCE_BYTES] = self._nonce
        self._fd, self._size, self._mapping, self._owner = fd, size, mapping, os.getpid()
        return True


class Negotiation:
    """Whether a robot's next request goes through memory. Times are in monotonic seconds.

    While off, requests carry the token of the robot's host, and a worker that has the same one
    repeats it in its result: from then on memory is used. A worker that cannot reach the memory
    says so, the same observation is sent again as bytes, and memory stays off for a while, longer
    each time. If workers of one policy run on several hosts, robots soon send bytes to all.
    """

    def __init__(self, host: bytes) -> None:
        """`host` is this process's `host_token`; empty: memory is never used."""
        self.is_on = False
        self._host = host
        self._off_until = float("-inf")
        self._pause_s = FIRST_PAUSE_S
        self._successes = 0

    def offer(self, now: float) -> dict[str, bytes]:
        """Header fields of a request whose arrays are sent as bytes."""
        return {"host": self._host} if self._host and now >= self._off_until else {}

    def answered(self, host: bytes | None) -> None:
        """A result came; `host` is what its header says."""
        if self.is_on:
            self._successes += 1
            if self._successes >= TRUSTED_AFTER:
                self._pause_s = FIRST_PAUSE_S
        elif host is not None and host == self._host:
            self.is_on, self._successes = True, 0

    def failed(self, now: float) -> None:
        """A worker could not reach the memory, or there is none."""
        self.is_on = False
        self._off_until = now + self._pause_s
        self._pause_s = min(2.0 * self._pause_s, LONGEST_PAUSE_S)


@functools.lru_cache(maxsize=1)
def _machine() -> bytes:
    """This boot of this machine's kernel, and this process's namespaces; empty if it can't say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", "rb") as file:
            boot = file.read()
        namespaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "user")]
        return boot + "".join(namespaces).encode("ascii")
    except OSError:
        return b""


def host_token() -> bytes:
    """8 bytes, equal in processes that may reach each other's memory; empty if there is no way to.

    They are equal for one user in one process namespace of one running kernel. Copies of a virtual
    machine may have the same; they fail to open what they are given, and get bytes instead.
    """
    machine = _machine()
    if not machine or not hasattr(os, "memfd_create"):
        return b""
    return hashlib.blake2b(machine + str(os.geteuid()).encode(), digest_size=8).digest()


class Regions:
    """The regions of a client whose threads may call it at once: each call has one of its own."""

    def __init__(self) -> None:
        self._free: list[SharedMemory] = []  # its operations are atomic

    def take(self) -> SharedMemory:
        """The region that was used last, whose memory is warm, or a new one."""
        try:
            return self._free.pop()
        except IndexError:
            return SharedMemory()

    def give_back(self, region: SharedMemory) -> None:
        """Keep a region for the next call."""
        self._free.append(region)

    def close(self) -> None:
        """Free the memory of all regions that are not in use."""
        while self._free:
            self.take().close()
