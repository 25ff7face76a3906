"""What goes into a body comes out of it, to the last bit, dtype and shape."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

import msgpack
import msgpack_numpy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client import body
from client.body import LARGE, decode_body, encode_body
from client.errors import BadObservation
from client.wire import MAX_FRAMES
from tests.client.trees import Tree, arrays, assert_same, scalars, trees

ALL_TYPECODES = "?" + np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "mM"
IMAGE = np.arange(224 * 224 * 3, dtype=np.uint8).reshape(224, 224, 3)


@given(trees)
def test_inline(tree: Tree) -> None:
    frames = encode_body(tree, buffers=False)
    assert len(frames) == 1
    assert_same(decode_body(frames), tree)


@given(trees, st.booleans())
def test_buffers(tree: Tree, copy: bool) -> None:
    with mock.patch.object(body, "LARGE", 8):
        frames = encode_body(tree, copy=copy)
    assert_same(decode_body(frames), tree)


def is_timeless(value: Any) -> bool:
    """Whether msgpack-numpy has a form for it; dates and durations it refuses."""
    return value.dtype.kind not in "mM"


@given(st.lists(arrays.filter(is_timeless), max_size=4), scalars.filter(is_timeless))
def test_what_msgpack_numpy_encodes_is_understood(members: list[Any], scalar: Any) -> None:
    if isinstance(scalar, float):
        scalar = float(scalar)  # as which msgpack takes a float64
    tree = {"arrays": members, "nested": {"scalar": scalar}}
    packed = msgpack.packb(tree, default=msgpack_numpy.encode)
    assert_same(decode_body([packed]), tree)


@given(st.lists(arrays, max_size=4))
def test_string_keys_become_msgpack_numpys_by_renaming(members: list[Any]) -> None:
    def rename(value: dict[str, Any]) -> Any:
        return msgpack_numpy.decode({key.encode(): member for key, member in value.items()})

    (packed,) = encode_body({"arrays": members}, buffers=False)
    assert_same(msgpack.unpackb(packed, object_hook=rename)[b"arrays"], members)


@pytest.mark.parametrize("code", ALL_TYPECODES)
@pytest.mark.parametrize("buffers", [True, False])
def test_every_numeric_dtype(code: str, buffers: bool) -> None:
    dtype = np.dtype(code + "8[ns]") if code in "mM" else np.dtype(code)
    array = np.arange(LARGE, dtype=np.int64).astype(dtype)
    tree = {"large": array, "swapped": array.astype(dtype.newbyteorder()), "scalar": array[5]}
    assert_same(decode_body(encode_body(tree, buffers=buffers)), tree)


def test_large_arrays_travel_outside_the_body_without_a_copy() -> None:
    frames = encode_body({"image": IMAGE, "state": np.zeros(14)})
    assert [len(frame) for frame in frames[1:]] == [IMAGE.nbytes]
    assert np.shares_memory(np.frombuffer(frames[1], np.uint8), IMAGE)
    assert len(frames[0]) < 500


def test_a_copy_may_be_written_over_at_once() -> None:
    image = IMAGE.copy()
    frames = encode_body({"image": image}, copy=True)
    image[:] = 0
    assert_same(decode_body(frames)["image"], IMAGE)


def test_a_non_contiguous_array_is_sent_as_it_looks() -> None:
    chw = IMAGE.transpose(2, 0, 1)
    assert_same(decode_body(encode_body({"image": chw}))["image"], np.ascontiguousarray(chw))


def test_more_large_arrays_than_frames() -> None:
    tree = {str(index): np.full(LARGE, index, np.uint8) for index in range(MAX_FRAMES + 5)}
    frames = encode_body(tree)
    assert len(frames) == MAX_FRAMES - 1  # the header is the other one
    assert_same(decode_body(frames), tree)


def test_inline_arrays_are_writable() -> None:
    decoded = decode_body(encode_body({"state": np.zeros(3)}))
    decoded["state"][0] = 1.0
    assert decoded["state"][0] == 1.0


def test_what_python_has_and_msgpack_has_not() -> None:
    sent = {"tuple": (1, (2, 3)), "complex": 1 + 2j, "name": np.str_("x"), "raw": np.bytes_(b"y")}
    got = decode_body(encode_body(sent))
    assert got == {"tuple": [1, [2, 3]], "complex": 1 + 2j, "name": "x", "raw": b"y"}


def test_any_mapping_subclass_is_a_dict() -> None:
    class Observation(dict[str, Any]):
        pass

    assert decode_body(encode_body(Observation(a=Observation(b=1)))) == {"a": {"b": 1}}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (np.zeros(3, object), "dtype object"),
        (np.zeros(3, "V4"), "dtype |V4"),
        (np.zeros(3, [("x", "<f4")]), "dtype [('x', '<f4')]"),
        (np.void(b"abc"), "dtype |V3"),
        (np.ma.masked_array([1.0, 2.0], [False, True]), "masked array"),
        (object(), "object cannot be sent"),
        ({1, 2}, "set cannot be sent"),
        (2**64, "int"),
        ("\ud800", "surrogates"),
    ],
)
def test_what_has_no_form_is_named(value: Any, why: str) -> None:
    for tree, path in (({"a": {"b": value}}, "a.b"), ({"a": [1, {"b": value}]}, "a")):
        with pytest.raises(BadObservation) as caught:
            encode_body({"fine": 1, **tree})
        assert str(caught.value).startswith(f"{path}: ")
        assert why in str(caught.value)


@pytest.mark.parametrize("tree", [None, [1], np.zeros(3), "text"])
def test_an_observation_is_a_dict(tree: Any) -> None:
    with pytest.raises(BadObservation, match="a dict is expected"):
        encode_body(tree)


def test_an_endless_observation_is_refused() -> None:
    endless: Tree = {}
    endless["again"] = endless
    with pytest.raises(BadObservation):
        encode_body(endless)


def test_a_failure_leaves_nothing_behind_for_the_next_observation() -> None:
    before = [bytes(frame) for frame in encode_body({"image": IMAGE, "state": [1.0]})]
    for broken in ({"image": IMAGE, "b": object()}, {"b": object(), "image": IMAGE}):
        with pytest.raises(BadObservation):
            encode_body(broken)
    assert [bytes(frame) for frame in encode_body({"image": IMAGE, "state": [1.0]})] == before


def test_threads_encode_at_the_same_time() -> None:
    images = [np.full((64, 256), number, np.uint8) for number in range(64)]
    with ThreadPoolExecutor(8) as threads:
        all_frames = threads.map(lambda image: encode_body({"image": image, "n": image[0]}), images)
    for image, frames in zip(images, all_frames, strict=True):
        assert_same(decode_body(frames), {"image": image, "n": image[0]})


def test_arrays_that_were_sent_are_not_kept_alive() -> None:
    image = IMAGE.copy()
    last = weakref.ref(image)
    frames = encode_body({"image": image})
    del frames, image
    gc.collect()
    assert last() is None
