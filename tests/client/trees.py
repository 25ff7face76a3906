"""Observations of every kind that the wire carries, and when two of them are the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

Tree = dict[str, Any]

_LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "as made": lambda array: array,
    "Fortran": np.asfortranarray,
    "transposed": np.transpose,
    "reversed": lambda array: array[::-1] if array.ndim else array,
    "every other": lambda array: array[..., ::2] if array.ndim else array,
    "broadcast": lambda array: np.broadcast_to(array, (2, *array.shape)),
}

dtypes = st.one_of(
    hnp.scalar_dtypes(),
    hnp.byte_string_dtypes(endianness="<", max_len=5),
    hnp.unicode_string_dtypes(endianness="<", max_len=5),
)
arrays = st.builds(
    lambda array, layout: _LAYOUTS[layout](array),
    hnp.arrays(dtypes, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)),
    st.sampled_from(sorted(_LAYOUTS)),
)
scalars = hnp.scalar_dtypes().flatmap(hnp.from_dtype)
plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
)
# `nd` and `__buffer__` are the wire's own; one letter keeps most keys clear of them.
keys = st.text(max_size=12).map(lambda text: f"k{text}")
leaves = st.one_of(arrays, scalars, plain, st.lists(plain, max_size=3))
trees = st.dictionaries(
    keys,
    st.recursive(leaves, lambda inner: st.dictionaries(keys, inner, max_size=4), max_leaves=8),
    max_size=5,
)


def assert_same(got: Any, sent: Any, path: str = "") -> None:
    """Fail, naming the path, unless both are the same to the last bit, dtype and shape."""
    if isinstance(sent, dict):
        assert isinstance(got, dict), path
        assert list(got) == list(sent), path
        for key, value in sent.items():
            assert_same(got[key], value, f"{path}.{key}")
    elif isinstance(sent, (list, tuple)):
        assert isinstance(got, list), path
        assert len(got) == len(sent), path
        for index, value in enumerate(sent):
            assert_same(got[index], value, f"{path}[{index}]")
    elif isinstance(sent, (np.ndarray, np.generic)) and not isinstance(sent, (np.str_, np.bytes_)):
        assert isinstance(got, np.ndarray) == isinstance(sent, np.ndarray), path
        assert got.dtype.str == sent.dtype.str, path
        assert got.shape == sent.shape, path
        assert got.tobytes() == sent.tobytes(), path
    else:
        assert got == sent or (got != got and sent != sent), path  # NaN equals nothing
        assert isinstance(sent, type(got)), path
