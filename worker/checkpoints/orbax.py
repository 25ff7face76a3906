"""A JAX checkpoint (Orbax, `params/`) as the tensors of the PyTorch form, piece by piece.

No JAX and no torch here: the same pieces fill a model, write a safetensors file or are compared
with one.
"""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from worker.checkpoints.ocdbt import FORMS, Leaf, OrbaxFolder
from worker.checkpoints.orbax_names import EMBEDDING, LAYERED, WHOLE, Array
from worker.checkpoints.public_names import EMBEDDING_NAME
from worker.checkpoints.safetensors_file import Description
from worker.errors import CheckpointError

BLOCK_BYTES = 16 * 2**20
"""How much of a tensor that is not split into layers is read at once."""


class Piece(NamedTuple):
    """Consecutive rows of one tensor, in the PyTorch form's name and layout."""

    name: str
    start: int
    values: Array
    """Any float dtype (bfloat16 is ml_dtypes'), not always contiguous."""


class OrbaxWeights:
    """The tensors of a `params/` folder: pi0, pi0.5 or pi0-FAST."""

    def __init__(self, path: Path) -> None:
        """List the arrays.

        Raises:
            CheckpointError: the folder is damaged, or has leaves that no model of the family has.
        """
        self.path = path
        self.not_floats: Mapping[str, str] = {}
        self.leaves = OrbaxFolder(path).leaves
        unknown = sorted(self.leaves.keys() - WHOLE.keys() - LAYERED.keys() - {EMBEDDING})
        if unknown:
            raise CheckpointError(
                f"{path} has {len(unknown)} leaves that no pi0, pi0.5 or pi0-FAST has, the first"
                f" {unknown[0]}; {FORMS}"
            )
        self.tensors = {
            name: Description(leaf.kind.safetensors, shape)
            for tree_path, leaf in self.leaves.items()
            for name, shape in self._shapes(tree_path, leaf)
        }

    @property
    def leaf_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shapes of the leaves by their path."""
        return {tree_path: leaf.shape for tree_path, leaf in self.leaves.items()}

    def pieces(self, names: Collection[str] | None = None) -> Iterator[Piece]:
        """Read `names` (None: all), leaf by leaf, a layer (or some rows of the embedding) at once.

        Raises:
            CheckpointError: the files are damaged.
        """
        for tree_path, leaf in self.leaves.items():
            for piece in _pieces(tree_path, leaf):
                if names is None or piece.name in names:
                    yield piece

    def _shapes(self, tree_path: str, leaf: Leaf) -> Iterator[tuple[str, tuple[int, ...]]]:
        if tree_path == EMBEDDING:
            yield EMBEDDING_NAME, leaf.shape
            return
        layers = leaf.shape[0] if tree_path in LAYERED else 1
        one = np.broadcast_to(np.zeros((), np.bool_), leaf.shape)
        for part in LAYERED.get(tree_path) or WHOLE[tree_path]:
            try:
                shape = part.turn(one[0] if tree_path in LAYERED else one).shape
            except (ValueError, IndexError) as error:
                raise CheckpointError(
                    f"{self.path}: {tree_path} has shape {list(leaf.shape)}, which cannot be"
                    f" {part.name}"
                ) from error
            yield from ((part.name.format(layer), shape) for layer in range(layers))


def _pieces(tree_path: str, leaf: Leaf) -> Iterator[Piece]:
    if tree_path == EMBEDDING:
        rows = max(1, BLOCK_BYTES * leaf.shape[0] // leaf.nbytes)
        start = 0
        for block in leaf.blocks(rows):
            yield Piece(EMBEDDING_NAME, start, block)
            start += len(block)
    elif tree_path in LAYERED:
        for layer, block in enumerate(leaf.blocks(1)):
            for part in LAYERED[tree_path]:
                yield Piece(part.name.format(layer), 0, part.turn(block[0]))
    else:
        whole = np.concatenate(list(leaf.blocks(leaf.shape[0])))
        for part in WHOLE[tree_path]:
            yield Piece(part.name, 0, part.turn(whole))
