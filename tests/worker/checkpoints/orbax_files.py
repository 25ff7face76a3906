"""Writing JAX's form for tests, as Orbax does: zarr arrays in tensorstore's OCDBT database."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorstore

from tests.golden import FOLDER
from worker.checkpoints.orbax import OrbaxWeights

Leaves = dict[str, npt.NDArray[Any]]


def read_leaves(checkpoint: str) -> Leaves:
    """All leaves of a golden checkpoint, whole, by their path in the tree."""
    leaves = OrbaxWeights(FOLDER / checkpoint / "params").leaves
    return {path: next(leaf.blocks(leaf.shape[0])) for path, leaf in leaves.items()}


def write_leaves(
    folder: Path, leaves: Mapping[str, npt.NDArray[Any]], chunks: int = 1, **metadata: Any
) -> Path:
    """`folder/params` with `leaves`; `chunks` a axis, at most, and zarr `metadata` of one's own."""
    params = folder / "params"
    store = {"driver": "ocdbt", "base": f"file://{params.absolute()}/"}
    for path, array in leaves.items():
        spec = {
            "driver": "zarr",
            "kvstore": {**store, "path": f"params.{path.replace('/', '.')}/"},
            "metadata": {
                "compressor": {"id": "zstd", "level": 1},
                "chunks": [-(-size // chunks) for size in array.shape],
                **metadata,
            },
        }
        opened = tensorstore.open(
            spec, create=True, dtype=tensorstore.dtype(array.dtype), shape=array.shape
        ).result()
        opened[...] = array
    return params


def noise(*shape: int) -> npt.NDArray[np.float32]:
    """Values that hardly compress, the same every time."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
