"""Reading the arrays that JAX wrote: Orbax's OCDBT form, piece by piece, without JAX.

A checkpoint's `params/` is a database (tensorstore's OCDBT) of zarr arrays, one for each leaf of
the parameter tree, often one chunk of several gigabytes with all layers stacked. Chunks are
decompressed as a stream, so that no more than one layer is ever in memory.
"""

import io
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import zstandard

from worker.checkpoints.dtypes import BY_ZARR, FloatType
from worker.errors import CheckpointError

if TYPE_CHECKING:
    import tensorstore

Array = npt.NDArray[Any]

READ_BYTES = 4 * 2**20
FORMS = "read are model.safetensors and params/ in Orbax's OCDBT form, float, without adapters"


class Stream(Protocol):
    """Bytes from first to last."""

    def readinto(self, buffer: Any, /) -> int | None:
        """Fill some of `buffer`; 0 at the end."""


@dataclass(frozen=True)
class Leaf:
    """One array of the parameter tree. `blocks` reads it."""

    folder: "OrbaxFolder"
    key: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    kind: FloatType
    compressed: bool
    separator: str

    @property
    def nbytes(self) -> int:
        """Bytes that all of it would take in memory."""
        return math.prod(self.shape) * self.kind.itemsize

    def blocks(self, rows: int) -> Iterator[Array]:
        """The array from first to last, at most `rows` of its first axis at a time."""
        for first in range(0, self.shape[0], self.chunks[0]):
            streams = list(self._streams(first // self.chunks[0]))
            band = min(self.chunks[0], self.shape[0] - first)
            for start in range(0, band, rows):
                yield self._block(streams, min(rows, band - start))

    def _streams(self, band: int) -> Iterator[tuple[tuple[slice, ...], Stream]]:
        """The chunks of the `band`-th row of chunks, each with its place in the array's rows."""
        counts = (range(-(-n // c)) for n, c in zip(self.shape[1:], self.chunks[1:], strict=True))
        for place in itertools.product(*counts):
            name = self.separator.join(map(str, (band, *place)))
            stream = self.folder.open(f"{self.key}/{name}", self.compressed)
            yield (
                tuple(
                    slice(i * c, (i + 1) * c) for i, c in zip(place, self.chunks[1:], strict=True)
                ),
                stream,
            )

    def _block(self, streams: list[tuple[tuple[slice, ...], Stream]], rows: int) -> Array:
        block = np.empty((rows, *self.shape[1:]), self.kind.numpy)
        for where, stream in streams:
            target = block[:, *where]
            # Chunks at the edge are stored whole, with padding beyond the array.
            whole = target.shape[1:] == self.chunks[1:] and target.flags.c_contiguous
            read = target if whole else np.empty((rows, *self.chunks[1:]), block.dtype)
            self._fill(stream, read.view(np.uint8).reshape(-1).data)
            if not whole:
                target[...] = read[:, *(slice(n) for n in target.shape[1:])]
        return block

    def _fill(self, stream: Stream, buffer: memoryview) -> None:
        done = 0
        while done < len(buffer):
            try:
                count = stream.readinto(buffer[done:])
            except zstandard.ZstdError as error:
                raise self.folder.damaged(f"{self.key} cannot be decompressed") from error
            if not count:
                raise self.folder.damaged(f"{self.key} ends {len(buffer) - done} bytes early")
            done += count


class OrbaxFolder:
    """The leaves of a `params/` folder, by their path: `PaliGemma/llm/final_norm/scale`."""

    def __init__(self, path: Path) -> None:
        """Open the folder and describe its leaves.

        Raises:
            CheckpointError: it is damaged or in a form that is not read.
        """
        self.path = path
        if not (path / "manifest.ocdbt").is_file():
            raise self._unreadable("has no manifest.ocdbt, so it is not in Orbax's OCDBT form")
        self._store = self._open_store()
        self._keys = self._list()
        self.leaves = {_tree_path(k): self._leaf(k) for k in self._arrays()}
        if not self.leaves:
            raise self._unreadable("holds no arrays")

    def open(self, key: str, compressed: bool) -> Stream:
        """The bytes of a chunk, decompressed, as a stream; zeros where it was left out."""
        if key not in self._keys:
            return _Zeros()
        value = io.BufferedReader(_Value(self, key), READ_BYTES)
        if not compressed:
            return value
        return zstandard.ZstdDecompressor().stream_reader(value, read_size=READ_BYTES)

    def read(self, key: str, start: int = 0, count: int | None = None) -> bytes:
        """Bytes of the stored value `key`: `count` of them, or all that are left, if fewer."""
        end = None if count is None else start + count
        try:
            result = self._store.read(key, byte_range=slice(start, end)).result()
        except ValueError as error:
            if end is not None and "OUT_OF_RANGE" in str(error):
                return self.read(key, start)
            raise self.damaged(f"{key} cannot be read: {_first_line(error)}") from error
        return bytes(result.value)

    def damaged(self, how: str) -> CheckpointError:
        """The error for files that exist but do not hold what they should."""
        return CheckpointError(
            f"{self.path} is damaged or was not copied completely: {how}; copy it again"
        )

    def _open_store(self) -> "tensorstore.KvStore":
        # Slow to import, and needed for this form only.
        import tensorstore

        # Not as a URL, in which some characters of file names would have a special meaning.
        base = {"driver": "file", "path": f"{self.path.absolute()}/"}
        try:
            return tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
        except ValueError as error:
            raise self.damaged(_first_line(error)) from error

    def _list(self) -> frozenset[str]:
        try:
            return frozenset(key.decode() for key in self._store.list().result())
        except ValueError as error:
            raise self.damaged(_first_line(error)) from error

    def _arrays(self) -> list[str]:
        newer = sorted(key for key in self._keys if key.endswith("zarr.json"))
        if newer:
            raise self._unreadable(f"holds zarr 3 arrays ({newer[0]})")
        return sorted(key.removesuffix("/.zarray") for key in self._keys if "/.zarray" in key)

    def _leaf(self, key: str) -> Leaf:
        if "lora" in key.lower():
            raise self._unreadable(f"holds LoRA adapters ({key}): merge them into the weights")
        try:
            array = json.loads(self.read(f"{key}/.zarray"))
            dtype, compressor = array["dtype"], array["compressor"]
            shape, chunks = tuple(array["shape"]), tuple(array["chunks"])
            order, filters = array["order"], array["filters"]
        except (ValueError, KeyError, TypeError) as error:
            raise self.damaged(f"{key}/.zarray is incomplete") from error
        if not isinstance(dtype, str) or dtype not in BY_ZARR:
            raise self._unreadable(f"holds {key} as {dtype}; quantised weights are not read")
        codec = compressor and compressor.get("id")
        if codec not in (None, "zstd") or order != "C" or filters or not shape:
            raise self._unreadable(
                f"holds {key} of shape {shape} with compressor {codec}, order {order} and filters"
                f" {filters}, which Orbax does not write"
            )
        separator = array.get("dimension_separator", ".")
        return Leaf(self, key, shape, chunks, BY_ZARR[dtype], codec is not None, separator)

    def _unreadable(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.path} {why}; {FORMS}")


class _Value(io.RawIOBase):
    """A stored value, read on in pieces."""

    def __init__(self, folder: OrbaxFolder, key: str) -> None:
        self._folder, self._key, self._position = folder, key, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._folder.read(self._key, self._position, len(buffer))
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)


class _Zeros(io.RawIOBase):
    """A chunk that was not stored since all of it is zero."""

    def readinto(self, buffer: Any) -> int:
        buffer[:] = bytes(len(buffer))
        return len(buffer)


def _tree_path(key: str) -> str:
    """`params.a.b.value` and `a.b` are the same leaf, `a/b`."""
    return key.removeprefix("params.").removesuffix(".value").replace(".", "/")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
