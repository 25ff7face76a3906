"""Arrays in others' msgpack: both forms are read, and no bytes lead to anything but an error."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgpack
import msgpack_numpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.gateway import arrays
from client.errors import BadObservation, ProtocolError

ARRAYS = [
    np.arange(6, dtype="<f4").reshape(2, 3),
    np.arange(6, dtype=">i2")[::2],
    np.zeros((0, 3), np.uint8),
    np.array(3.5),
    np.array([True, False]),
    np.array(["fold", "ü"]),
    np.array([b"raw"]),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
]


@pytest.mark.parametrize("encode", [arrays.encode, arrays.encode_msgpack_numpy])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: str(array.dtype))
def test_an_array_comes_back_as_it_was(encode: Any, array: np.ndarray[Any, Any]) -> None:
    back = arrays.decode(encode({"a": [array]}))["a"][0]
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    assert back.shape == array.shape


@pytest.mark.parametrize("encode", [arrays.encode, arrays.encode_msgpack_numpy])
@pytest.mark.parametrize("scalar", [np.float32(0.1), np.int64(-5), np.bool_(True), np.uint8(7)])
def test_a_scalar_comes_back_as_it_was(encode: Any, scalar: Any) -> None:
    back = arrays.decode(encode(scalar))
    assert back == scalar
    assert back.dtype == scalar.dtype


def test_what_msgpack_numpy_itself_writes_is_read() -> None:
    packed = msgpack.packb({"a": ARRAYS[0], "b": np.float64(2)}, default=msgpack_numpy.encode)
    back = arrays.decode(packed)
    assert np.array_equal(back["a"], ARRAYS[0])
    assert back["b"] == 2.0
    again = msgpack.unpackb(
        arrays.encode_msgpack_numpy({"a": ARRAYS[0]}), object_hook=msgpack_numpy.decode
    )
    assert np.array_equal(again["a"], ARRAYS[0])


def test_keys_may_be_strings() -> None:
    form = {"__ndarray__": True, "data": b"\x00\x00\x80?", "dtype": "<f4", "shape": [1]}
    assert arrays.decode(msgpack.packb(form)) == np.float32(1.0)
    form = {"nd": True, "type": "<f4", "kind": "", "shape": [1], "data": b"\x00\x00\x80?"}
    assert arrays.decode(msgpack.packb(form)) == np.float32(1.0)


def test_a_map_that_only_looks_like_one_stays_a_map() -> None:
    for plain in ({"nd": True}, {"data": b"x", "dtype": "O"}, {"__ndarray__": False, "a": 1}):
        assert arrays.decode(msgpack.packb(plain)) == plain


@pytest.mark.parametrize("value", [object(), 1j, np.zeros(2, object), np.zeros(2, "M8[s]"), 2**70])
@pytest.mark.parametrize("encode", [arrays.encode, arrays.encode_msgpack_numpy])
def test_what_has_no_form_is_refused(encode: Any, value: Any) -> None:
    with pytest.raises(BadObservation):
        encode({"a": value})


_FIELDS = st.sampled_from(
    ["nd", "type", "kind", "shape", "data", "dtype", "__ndarray__", "__npgeneric__"]
)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=16)
    | st.sampled_from(["<f4", "|O", "|V4", "<U1000000", "f8,O", ">i2", "int64", "?", "b1", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(_FIELDS | _FIELDS.map(str.encode), inner, max_size=6)
    ),
    max_leaves=12,
)


@given(_VALUES)
def test_no_form_of_an_array_leads_to_another_error(value: Any) -> None:
    with suppress(ProtocolError):
        arrays.decode(msgpack.packb(value))


@given(st.binary(max_size=200))
def test_no_bytes_lead_to_another_error(message: bytes) -> None:
    with suppress(ProtocolError):
        arrays.decode(message)
