"""Reading a safetensors file piece by piece, without torch and without mapping it into memory.

The format (github.com/huggingface/safetensors): eight bytes with the header's length, little
endian; the header, a JSON object of dtype, shape and byte range per tensor; then the bytes. Mapped
pages would count as the process's own memory beside the copy made of them; reads do not.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from worker.checkpoints.dtypes import BY_SAFETENSORS
from worker.errors import CheckpointError

_NOT_FLOATS = ("BOOL", "U8", "I8", "U16", "I16", "U32", "I32", "U64", "I64")
MAX_HEADER_BYTES = 100_000_000
"""What the reference implementation allows."""


@dataclass(frozen=True)
class Description:
    """What a tensor is, wherever it lies: a dtype of `BY_SAFETENSORS`, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that its values take."""
        return math.prod(self.shape) * BY_SAFETENSORS[self.dtype].itemsize


@dataclass(frozen=True)
class StoredTensor(Description):
    """One tensor as the header describes it; `start` is a byte offset in the file."""

    start: int


class WeightsFile:
    """An open safetensors file; a context manager.

    `tensors` are those of floats, by the names in the file; `not_floats` has the dtype of each
    other one, such as a counter, which no model of ours reads.
    """

    def __init__(self, path: Path) -> None:
        """Open `path` and read its header.

        Raises:
            CheckpointError: the file is missing, shorter than its header says, or damaged.
        """
        self.path = path
        self.not_floats: dict[str, str] = {}
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
        try:
            self.size = os.fstat(self._file.fileno()).st_size
            self.header = self._read_header()
            self.tensors = self._parse_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "WeightsFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill `buffer` with the file's bytes from `start` on."""
        self._file.seek(start)
        done = 0
        while done < len(buffer):
            count = self._file.readinto(buffer[done:])
            if not count:
                raise self._damaged(f"it ends {len(buffer) - done} bytes early")
            done += count

    def read(self, start: int, count: int) -> bytes:
        """`count` bytes from `start` on, fewer at the end of the file."""
        buffer = bytearray(max(0, min(count, self.size - start)))
        self.read_into(start, memoryview(buffer))
        return bytes(buffer)

    def _read_header(self) -> bytes:
        length = int.from_bytes(self.read(0, 8), "little")
        if self.size < 8 or not 2 <= length <= min(self.size - 8, MAX_HEADER_BYTES):
            raise self._damaged(f"its header cannot be {length} bytes in a file of {self.size}")
        return self.read(8, length)

    def _parse_header(self) -> dict[str, StoredTensor]:
        try:
            entries = json.loads(self.header)
        except (ValueError, RecursionError) as error:
            raise self._damaged("its header is no JSON") from error
        if not isinstance(entries, dict):
            raise self._damaged("its header is no JSON object")
        tensors = {}
        for name, entry in entries.items():
            if name == "__metadata__":
                continue
            dtype, shape, begin, end = self._entry(name, entry)
            if dtype in _NOT_FLOATS:
                self.not_floats[name] = dtype
                continue
            if dtype not in BY_SAFETENSORS:
                raise CheckpointError(
                    f"{self.path}: {name} has dtype {dtype}; weights are read as"
                    f" {', '.join(BY_SAFETENSORS)}, not quantised"
                )
            tensors[name] = StoredTensor(dtype, shape, 8 + len(self.header) + begin)
            if tensors[name].nbytes != end - begin:
                raise self._damaged(f"{name} cannot have {end - begin} bytes")
        return tensors

    def _entry(self, name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
        """Dtype, shape, first byte and the one behind the last, after the header."""
        try:
            dtype, shape, (begin, end) = str(entry["dtype"]), entry["shape"], entry["data_offsets"]
            numbers = [begin, end, *shape]
        except (KeyError, TypeError, ValueError) as error:
            raise self._damaged(f"the entry of {name} is incomplete") from error
        if not all(type(n) is int and n >= 0 for n in numbers):
            raise self._damaged(f"the entry of {name} is nonsense")
        if 8 + len(self.header) + end > self.size:
            raise self._damaged(f"it has {self.size} bytes, and {name} lies beyond its end")
        return dtype, tuple(shape), begin, end

    def _damaged(self, how: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} is damaged or was not copied completely: {how}; copy it again"
        )
