"""The dtypes that weights may have: the one table that files, numpy and torch are matched by."""

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class FloatType:
    """One dtype by each of its names; torch has it under numpy's: `float32`, `bfloat16` ..."""

    safetensors: str
    zarr: str
    numpy: np.dtype[Any]

    @property
    def name(self) -> str:
        """What numpy and torch call it."""
        return self.numpy.name

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return self.numpy.itemsize


FLOAT_TYPES = (
    FloatType("F64", "<f8", np.dtype("<f8")),
    FloatType("F32", "<f4", np.dtype("<f4")),
    FloatType("F16", "<f2", np.dtype("<f2")),
    FloatType("BF16", "bfloat16", np.dtype(ml_dtypes.bfloat16)),
)
BY_SAFETENSORS = {kind.safetensors: kind for kind in FLOAT_TYPES}
BY_ZARR = {kind.zarr: kind for kind in FLOAT_TYPES}
BY_NAME = {kind.name: kind for kind in FLOAT_TYPES}
