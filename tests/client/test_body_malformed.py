"""Whatever comes in a body, the decoder answers with a typed error, and never unpickles."""

from __future__ import annotations

from typing import Any

import msgpack
import msgpack_numpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.body import LARGE, decode_body, encode_body
from client.errors import PolicyError, ProtocolError
from tests.client import exploit
from tests.client.trees import plain


def inline(**changes: Any) -> dict[str, Any]:
    """A float32 array of 2 x 3 in the inline form, with some of its fields changed."""
    array = {"nd": True, "type": "<f4", "kind": "", "shape": [2, 3], "data": bytes(24)}
    return {**array, **changes}


def buffer(**changes: Any) -> dict[str, Any]:
    """The same in buffer 0."""
    return {"__buffer__": 0, "dtype": "<f4", "shape": [2, 3], **changes}


def decode(value: Any, *buffers: bytes) -> Any:
    """What `value` becomes as a member of a body."""
    return decode_body([msgpack.packb({"a": value}), *buffers])["a"]


def test_the_unchanged_forms_are_arrays() -> None:
    for array in (decode(inline()), decode(buffer(), bytes(24))):
        assert array.shape == (2, 3)
        assert array.dtype == np.float32


OBJECT_SPELLINGS = ["O", "|O", "|O8", "<O", ">O", "=O8", "O8", "object", "object_", "OO", "|O\n"]
STRUCTURED = ["V", "|V4", "V4", "f4,f4", "<f4,<O", "(2,3)f4", "i4, (2,3)f8, f4", "void", "<f4,"]
NO_DTYPES = [
    "",
    "<",
    "<f",
    "<f3",
    "<x4",
    "f4 ",
    " <f4",
    "<f4\n",
    "<f4\0",
    "<M8[0s]",
    "<S0",
    "float32",
]


@pytest.mark.parametrize("name", OBJECT_SPELLINGS + STRUCTURED + NO_DTYPES)
def test_dtypes_that_are_refused(name: str) -> None:
    for spelling in (name, name.encode()):
        for value, buffers in (
            (inline(type=spelling), ()),
            (inline(nd=False, type=spelling), ()),
            (buffer(dtype=spelling), (bytes(24),)),
        ):
            with pytest.raises(ProtocolError, match="dtype"):
                decode(value, *buffers)


@pytest.mark.parametrize("name", [None, 4, 1.5, [], ["<f4"], [["x", "|O"]], {}, {"x": "O"}, True])
def test_dtypes_that_are_no_names(name: Any) -> None:
    with pytest.raises(ProtocolError, match="dtype"):
        decode(inline(type=name))
    with pytest.raises(ProtocolError, match="dtype"):
        decode(buffer(dtype=name), bytes(24))


@pytest.mark.parametrize("name", [b"|O", "|O", b"O", "O", [["x", "|O"]], [[b"x", b"|O"]]])
@pytest.mark.parametrize("kind", [b"O", "O", b"V", "V", b"", ""])
@pytest.mark.parametrize("nd", [True, False])
def test_the_known_exploit_is_never_unpickled(name: Any, kind: Any, nd: bool) -> None:
    fields = {"nd": nd, "type": name, "kind": kind, "shape": [1], "data": exploit.BOMB}
    for value in (fields, {key.encode(): member for key, member in fields.items()}):
        with pytest.raises(ProtocolError):
            decode(value)
    assert exploit.detonations == []


def test_the_exploit_is_a_real_one() -> None:
    packed = msgpack.packb(
        {b"nd": True, b"type": b"|O", b"kind": b"O", b"shape": [1], b"data": exploit.BOMB}
    )
    msgpack.unpackb(packed, object_hook=msgpack_numpy.decode)
    assert exploit.detonations.pop() == "boom"


@pytest.mark.parametrize(
    "shape",
    [
        *([2, 2], [], [24], [2, 3, 0], [-2, -3], [2, -3], [2.0, 3], [True, 6], [2**48], [2**62, 4]),
        *("23", 6, None, {}, [[2, 3]], [2**63, 2**63], [0, 2**62], [1] * 40),
    ],
)
def test_shapes_that_do_not_fit(shape: Any) -> None:
    with pytest.raises(ProtocolError):
        decode(inline(shape=shape))
    with pytest.raises(ProtocolError):
        decode(buffer(shape=shape), bytes(24))


@pytest.mark.parametrize("shape", [[0, 2**47, 2**47, 2**47], [2**47, 0], [0] * 33])
def test_empty_arrays_with_absurd_sides(shape: list[int]) -> None:
    try:
        array = decode(inline(shape=shape, data=b""))
    except ProtocolError:
        return
    assert array.size == 0


@pytest.mark.parametrize("data", [bytes(23), bytes(25), b"", "x" * 24, 24, None, [0] * 24, {}])
def test_data_of_another_size_or_type(data: Any) -> None:
    with pytest.raises(ProtocolError):
        decode(inline(data=data))


@pytest.mark.parametrize("size", [0, 23, 25])
def test_a_buffer_of_another_size(size: int) -> None:
    with pytest.raises(ProtocolError, match=f"24 bytes: {size} came"):
        decode(buffer(), bytes(size))


@pytest.mark.parametrize("index", [1, -1, 2**40, "0", None, 0.0, False, [0]])
def test_a_missing_buffer(index: Any) -> None:
    with pytest.raises(ProtocolError, match="missing or used twice"):
        decode(buffer(__buffer__=index), bytes(24))


def test_a_buffer_used_twice() -> None:
    with pytest.raises(ProtocolError, match="used twice"):
        decode([buffer(), buffer()], bytes(24))


def test_a_buffer_without_an_array() -> None:
    with pytest.raises(ProtocolError, match="1 of 2 buffers belong to no array"):
        decode(buffer(), bytes(24), bytes(24))


def test_truncation_anywhere() -> None:
    frames = encode_body({"image": np.zeros(LARGE, np.uint8), "state": np.zeros(14), "p": "text"})
    whole = bytes(frames[0])
    for length in range(len(whole)):
        with pytest.raises(ProtocolError):
            decode_body([whole[:length], *frames[1:]])
    with pytest.raises(ProtocolError):
        decode_body([whole + b"\0", *frames[1:]])


@pytest.mark.parametrize("value", [None, 1, "text", b"bytes", [1], [{}], inline(), True])
def test_a_body_is_a_map(value: Any) -> None:
    with pytest.raises(ProtocolError, match="map is expected"):
        decode_body([msgpack.packb(value)])


def test_a_message_has_a_body() -> None:
    with pytest.raises(ProtocolError, match="body is missing"):
        decode_body([])


@pytest.mark.parametrize("depth", [100, 600, 1015, 1100, 100_000])
@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1x"], ids=["lists", "maps"])
@pytest.mark.parametrize("field", ["x", "type", "shape", "data", "nd", "__buffer__", "dtype"])
def test_a_nesting_bomb(depth: int, opening: bytes, field: str) -> None:
    around = {**inline(), **buffer(), field: "HERE"} if field != "x" else {"x": "HERE"}
    packed = msgpack.packb(around).replace(msgpack.packb("HERE"), opening * depth + b"\xc0")
    only_policy_errors([packed, bytes(24)][: 1 if field == "x" else 2])


@pytest.mark.parametrize("key", [[1], {}, [[]]])
def test_keys_that_cannot_be(key: Any) -> None:
    packed = b"\x81" + msgpack.packb(key) + b"\xc0"
    with pytest.raises(ProtocolError):
        decode_body([packed])


@given(st.lists(st.binary(max_size=200), max_size=3))
def test_random_bytes(frames: list[bytes]) -> None:
    only_policy_errors(frames)


reserved = st.sampled_from(["nd", "type", "shape", "data", "kind", "__buffer__", "dtype"])
dtype_names = st.sampled_from(["<f4", "|u1", "|O", "<U2", "<M8[s]", "V4"]) | st.text(max_size=6)
near = st.recursive(
    plain | dtype_names | st.lists(st.integers(-2, 9), max_size=3),
    lambda inner: st.dictionaries(
        reserved | reserved.map(str.encode) | st.text(max_size=3), inner, max_size=6
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=3), near, max_size=3), st.lists(st.binary(max_size=24)))
def test_what_looks_almost_like_arrays(tree: dict[str, Any], buffers: list[bytes]) -> None:
    only_policy_errors([msgpack.packb(tree), *buffers])


@given(st.data())
def test_a_flipped_byte(data: st.DataObject) -> None:
    body, *buffers = encode_body({"image": np.zeros(LARGE, "<f4"), "state": np.zeros(3), "p": "x"})
    damaged = bytearray(body)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    only_policy_errors([bytes(damaged), *map(bytes, buffers)])


def only_policy_errors(frames: list[bytes]) -> None:
    """Decode; anything but a dict or a short `PolicyError` fails the test."""
    complaint = ""
    try:
        assert isinstance(decode_body(frames), dict)
    except PolicyError as error:
        complaint = str(error)
    assert len(complaint) < 500
