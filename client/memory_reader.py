"""The reader's side of shared memory: opens the memory that a robot names, after checking it.

Workers read requests by it, and so do those that follow the broker's tap.

A robot's word is not trusted. What `/proc/PID/fd/N` leads to is first examined without being
opened (a device or a pipe would notice), then opened for reading only, and used if it is an
anonymous file of the reader's own user, sealed against any change of its size (so that no read
can end in SIGBUS), as large as declared, and begins with the nonce that the robot gave. A robot
cannot name the memory of another one: it does not know that one's nonce.

A worker reads arrays in place (`Mappings.read`), since for large ones a copy costs as much as all
the rest of the way. The robot waits for its answer meanwhile. A robot that writes all the same
changes its own observation and nothing else: the shape and dtype of each array are fixed, and no
decision about another request depends on its values. For those that follow the tap no robot waits:
they copy (`Mappings.snapshot`), and learn from the count whether the robot wrote meanwhile.

A mapping is kept for the robot's next request. Once a second (`forget_closed`) those whose owner
has closed its file or has ended are dropped, so nothing of a killed robot stays.
"""

from __future__ import annotations

import fcntl
import functools
import mmap
import os
import stat
from collections import OrderedDict
from typing import NamedTuple, Tuple

from client.errors import MemoryUnreachable
from client.shared_memory import COUNT, F_GET_SEALS, NONCE_BYTES, SEALS, Reference

MOST_MAPPINGS = 256  # each takes a file descriptor
MOST_BYTES = 2**30  # of all of them; memory that the robots have allocated, mapped here


Key = Tuple[int, int, bytes]
"""Whose memory it is: process id, file descriptor and nonce."""


class _Mapping(NamedTuple):
    memory: memoryview
    file: tuple[int, int]  # device and inode, by which it is known again


class _Views(NamedTuple):
    """What a reference led to the last time; a robot's observations are alike."""

    packed: bytes
    key: Key
    views: list[memoryview]
    bytes: int  # of all of them


class Mappings:
    """Robots' memory, by who owns it. Not thread-safe."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes`: the largest message that is allowed, by whatever way it comes."""
        self.max_bytes = max_bytes
        self._mappings: OrderedDict[Key, _Mapping] = OrderedDict()
        self._last: dict[Key, _Views] = {}
        self._by_reference: dict[bytes, _Views] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._mappings)

    def read(self, packed: bytes) -> list[memoryview]:
        """The buffers that a header's `memory` field names, read-only and not copied.

        Raises:
            ProtocolError: the field is no reference.
            MemoryUnreachable: it leads to nothing that may be read; the robot sends bytes instead.
        """
        known = self._by_reference.get(packed)
        if known is not None and known.bytes <= self.max_bytes:
            self._mappings.move_to_end(known.key)
            return known.views
        reference = Reference.unpack(packed)
        size = sum(length for _, length in reference.ranges)
        if size > self.max_bytes:
            raise MemoryUnreachable(
                f"the memory holds {size} bytes, {self.max_bytes} are allowed: send them as bytes"
            )
        key = reference.pid, reference.fd, reference.nonce
        mapping = self._mappings.get(key)
        if mapping is None:
            mapping = self._keep(key, self._open(reference))
        elif len(mapping.memory) != reference.size:
            raise MemoryUnreachable("the memory has another size than before")
        else:
            self._mappings.move_to_end(key)
        views = [mapping.memory[start : start + length] for start, length in reference.ranges]
        if key in self._mappings:
            self._forget_views(key)
            self._last[key] = self._by_reference[packed] = _Views(packed, key, views, size)
        return views

    def snapshot(self, packed: bytes, written: int | None) -> list[memoryview] | None:
        """Copies of the buffers that a header's `memory` field names, whole and of one request.

        None where the robot has begun to write its next request there.

        Args:
            packed: the header's field `memory`.
            written: its field `written`.

        Raises:
            ProtocolError: the field is no reference.
            MemoryUnreachable: it leads to nothing that may be read.
        """
        copies = [memoryview(bytes(view)) for view in self.read(packed)]
        known = self._by_reference.get(packed)
        if known is None:
            return None
        # It is counted up before its bytes change.
        count = int.from_bytes(self._mappings[known.key].memory[COUNT], "little")
        return copies if count == written else None

    def forget_closed(self) -> None:
        """Drop the mappings whose owner has closed its file, or has ended."""
        for key, mapping in list(self._mappings.items()):
            pid, fd, _ = key
            try:
                status = os.stat(f"/proc/{pid}/fd/{fd}")
            except OSError:
                self._drop(key)
                continue
            if (status.st_dev, status.st_ino) != mapping.file:
                self._drop(key)

    def close(self) -> None:
        """Drop them all; views still in use stay valid."""
        for key in list(self._mappings):
            self._drop(key)

    def _open(self, reference: Reference) -> _Mapping:
        if reference.size > MOST_BYTES:
            raise _refused(f"has {reference.size} bytes, more than may be mapped")
        try:
            return _map(reference)
        except OSError as error:
            raise MemoryUnreachable(
                f"the robot's memory cannot be opened ({error.strerror}): send the arrays as bytes"
            ) from error

    def _forget_views(self, key: Key) -> None:
        known = self._last.pop(key, None)
        if known is not None:
            del self._by_reference[known.packed]

    def _keep(self, key: Key, mapping: _Mapping) -> _Mapping:
        self._mappings[key] = mapping
        self._bytes += len(mapping.memory)
        while len(self._mappings) > MOST_MAPPINGS or self._bytes > MOST_BYTES:
            self._drop(next(iter(self._mappings)))
        return mapping

    def _drop(self, key: Key) -> None:
        self._forget_views(key)
        # Requests in hand may still hold parts of it: the last one unmaps it.
        self._bytes -= len(self._mappings.pop(key).memory)


def _map(reference: Reference) -> _Mapping:
    """Open, check and map.

    Raises:
        OSError: the system refuses.
        MemoryUnreachable: it is not a robot's shared memory, or not as declared.
    """
    path = os.open(f"/proc/{reference.pid}/fd/{reference.fd}", os.O_PATH | os.O_CLOEXEC)
    try:
        _check_file(os.fstat(path))
        file = os.open(f"/proc/self/fd/{path}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(path)
    try:
        if fcntl.fcntl(file, F_GET_SEALS) & SEALS != SEALS:
            raise _refused("is not sealed against changes of its size")
        status = os.fstat(file)  # only now can it not change any more
        if status.st_size != reference.size:
            raise _refused(f"has {status.st_size} bytes, not {reference.size}")
        memory = memoryview(mmap.mmap(file, reference.size, mmap.MAP_SHARED, mmap.PROT_READ))
    finally:
        os.close(file)
    if memory[:NONCE_BYTES] != reference.nonce:
        raise _refused("belongs to another process")
    return _Mapping(memory, (status.st_dev, status.st_ino))


def _check_file(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode) or status.st_dev != _device():
        raise _refused("is no anonymous file")
    if status.st_uid != os.geteuid():
        raise _refused("belongs to another user")


def _refused(reason: str) -> MemoryUnreachable:
    return MemoryUnreachable(f"the robot's memory {reason}: send the arrays as bytes")


@functools.lru_cache(maxsize=1)
def _device() -> int:
    """The kernel's own file system, on which all anonymous files lie."""
    file = os.memfd_create("device", os.MFD_CLOEXEC)
    try:
        return os.fstat(file).st_dev
    finally:
        os.close(file)
