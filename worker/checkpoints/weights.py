"""A checkpoint's weights in any of its forms, described and read piece by piece.

`open_weights` is the one way to them: for loading, converting, inspecting and verifying.
"""

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np

from worker.checkpoints.dtypes import BY_SAFETENSORS
from worker.checkpoints.orbax import OrbaxWeights, Piece
from worker.checkpoints.orbax_names import Array
from worker.checkpoints.public_names import EMBEDDING_NAME, public_name
from worker.checkpoints.safetensors_file import Description, StoredTensor, WeightsFile
from worker.errors import CheckpointError

INDEX_SUFFIX = ".index.json"
BLOCK_BYTES = 4 * 2**20
"""How much of a safetensors file is in memory at once."""


class Weights(Protocol):
    """What `open_weights` found."""

    @property
    def path(self) -> Path:
        """Where they lie: a file, or a folder in JAX's form."""

    @property
    def tensors(self) -> Mapping[str, Description]:
        """All weights by their public names."""

    @property
    def not_floats(self) -> Mapping[str, str]:
        """The dtypes of tensors that are not floats, and so not weights, by their public names."""

    @property
    def leaf_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of JAX's leaves by their path; none in the PyTorch form."""

    def pieces(self, names: Collection[str] | None = None) -> Iterator[Piece]:
        """Read the tensors `names` (None: all), each from its first row to its last.

        Raises:
            CheckpointError: the files are damaged.
        """


def nbytes(weights: Weights) -> int:
    """Bytes that all values take."""
    return sum(tensor.nbytes for tensor in weights.tensors.values())


@contextmanager
def open_weights(path: Path) -> Iterator[Weights]:
    """Open a safetensors file, the index of several, or a folder in JAX's form.

    Raises:
        CheckpointError: they are damaged or in a form that is not read.
    """
    if path.is_dir():
        yield OrbaxWeights(path)
        return
    with ExitStack() as stack:
        paths = shards(path) if path.name.endswith(INDEX_SUFFIX) else [path]
        files = [stack.enter_context(WeightsFile(shard)) for shard in paths]
        yield SafetensorsWeights(path, files)


def shards(index: Path) -> list[Path]:
    """The files that a `model.safetensors.index.json` names, in order.

    Raises:
        CheckpointError: it is damaged, or one of the files is missing.
    """
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        paths = [index.parent / name for name in names]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{index} names no files of weights: {error!r}") from error
    if not paths:
        raise CheckpointError(f"{index} names no files of weights")
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise CheckpointError(
            f"{index.parent} is not complete: of the {len(paths)} files that {index.name} names,"
            f" {', '.join(missing)} is not there; copy it again"
        )
    return paths


class SafetensorsWeights:
    """One or several open safetensors files.

    A tied tensor that is stored under both of its names is there once.
    """

    def __init__(self, path: Path, files: Collection[WeightsFile]) -> None:
        """Arrange what `files` hold by public names.

        Raises:
            CheckpointError: two tensors have the same public name.
        """
        self.path = path
        self.leaf_shapes: Mapping[str, tuple[int, ...]] = {}
        self.not_floats: dict[str, str] = {}
        self._places: dict[str, tuple[WeightsFile, StoredTensor]] = {}
        for file in files:
            self.not_floats |= {public_name(n): kind for n, kind in file.not_floats.items()}
            for stored_name, tensor in file.tensors.items():
                name = public_name(stored_name)
                if ".lora_" in name:
                    raise CheckpointError(
                        f"{path} holds LoRA adapters ({stored_name}): merge them into the weights"
                    )
                if name in self._places and name != EMBEDDING_NAME:
                    raise CheckpointError(f"{path} holds two tensors that are both {name}")
                if name not in self._places or "embed_tokens" in stored_name:
                    # The one that prompts are read with, in case the two are not tied after all.
                    self._places[name] = file, tensor

    @property
    def tensors(self) -> Mapping[str, Description]:
        """All weights by their public names."""
        return {name: tensor for name, (_, tensor) in self._places.items()}

    def pieces(self, names: Collection[str] | None = None) -> Iterator[Piece]:
        """Read the tensors `names` (None: all), some rows at a time.

        Raises:
            CheckpointError: a file ends early.
        """
        for name, (_, tensor) in self._places.items():
            if not tensor.nbytes or (names is not None and name not in names):
                continue
            count = tensor.shape[0] if tensor.shape else 1
            step = max(1, BLOCK_BYTES * count // tensor.nbytes)
            for start in range(0, count, step):
                yield Piece(name, start, self.rows(name, start, min(step, count - start)))

    def rows(self, name: str, start: int, count: int) -> Array:
        """`count` rows of the tensor `name`, from row `start` on, in the dtype that is stored.

        Raises:
            CheckpointError: the file ends early.
        """
        file, tensor = self._places[name]
        rows = np.empty((count, *tensor.shape[1:]), BY_SAFETENSORS[tensor.dtype].numpy)
        row_bytes = rows.nbytes // count
        file.read_into(tensor.start + start * row_bytes, rows.view(np.uint8).reshape(-1).data)
        return rows
