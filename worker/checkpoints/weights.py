"""A checkpoint's weights in either form, described and read piece by piece."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from worker.checkpoints.orbax import BLOCK_BYTES, OrbaxWeights, Piece
from worker.checkpoints.safetensors_file import Description, WeightsFile

NUMPY_DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclass(frozen=True)
class Weights:
    """What `open_weights` found; `pieces` reads it from first to last."""

    path: Path
    tensors: Mapping[str, Description]
    """By their public names, LeRobot's `model.` taken off."""
    pieces: Callable[[], Iterator[Piece]]
    leaves: Mapping[str, tuple[int, ...]]
    """Shapes of JAX's leaves by their path; none in the PyTorch form."""

    @property
    def nbytes(self) -> int:
        """Bytes that all values take."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@contextmanager
def open_weights(path: Path) -> Iterator[Weights]:
    """A safetensors file, or a folder in JAX's form.

    Raises `CheckpointError` where it is damaged or in a form that is not read, when opened or from
    `pieces`.
    """
    if path.is_dir():
        orbax = OrbaxWeights(path)
        leaves = {name: leaf.shape for name, leaf in orbax.leaves.items()}
        yield Weights(path, orbax.tensors, orbax.pieces, leaves)
        return
    with WeightsFile(path) as file:
        prefix = "model." if all(name.startswith("model.") for name in file.tensors) else ""
        tensors = {name.removeprefix(prefix): tensor for name, tensor in file.tensors.items()}
        yield Weights(path, tensors, lambda: _file_pieces(file, prefix), {})


def _file_pieces(file: WeightsFile, prefix: str) -> Iterator[Piece]:
    for name, tensor in file.tensors.items():
        if not tensor.nbytes:
            continue
        dtype, rows = NUMPY_DTYPES[tensor.dtype], tensor.shape[0] if tensor.shape else 1
        row_bytes = tensor.nbytes // rows
        step = max(1, BLOCK_BYTES // row_bytes)
        for start in range(0, rows, step):
            count = min(step, rows - start)
            block = np.empty((count, *tensor.shape[1:]), dtype)
            buffer = block.view(np.uint8).reshape(-1).data
            file.read_into(tensor.start + start * row_bytes, buffer)
            yield Piece(name.removeprefix(prefix), start, block)
