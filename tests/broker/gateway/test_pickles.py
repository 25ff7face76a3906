"""The reader of pickles: all that LeRobot's clients send, and nothing that could call."""

from __future__ import annotations

import contextlib
import pickle
import pickletools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.gateway.pickled_values import Record
from broker.gateway.pickles import loads
from client.errors import ProtocolError
from tests.broker.gateway.dialects.lerobot_robot import RemotePolicyConfig, TimedObservation

ARRAYS = [
    np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    np.arange(24, dtype=">i4").reshape(4, 6).T,
    np.zeros((0, 3), np.uint8),
    np.array([True, False]),
    np.float64(2.5),
    torch.arange(12, dtype=torch.float32).reshape(3, 4),
    torch.arange(12, dtype=torch.int64).reshape(3, 4).T,
    torch.arange(12, dtype=torch.uint8)[3:7],
    torch.tensor(2.5),
]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", ARRAYS, ids=str)
def test_arrays_scalars_and_tensors_are_read_to_the_last_bit(value: Any, protocol: int) -> None:
    found = loads(pickle.dumps(TimedObservation(1.5, 3, {"x": value, "task": "fold"}), protocol))
    assert isinstance(found, Record)
    assert found.fields["timestep"] == 3
    read = found.fields["observation"]["x"]
    expected = value.numpy() if isinstance(value, torch.Tensor) else value
    assert read.shape == expected.shape
    assert np.array_equal(read, expected)
    assert read.dtype == expected.dtype


def test_a_policys_instructions_are_read() -> None:
    features = {"observation.state": {"dtype": "float32", "shape": (2,), "names": ["a", "b"]}}
    found = loads(pickle.dumps(RemotePolicyConfig("act", "x/y", features, 50)))
    assert found.name == "RemotePolicyConfig"
    assert found.fields["lerobot_features"] == features
    assert found.fields["actions_per_chunk"] == 50


# One pickle for each opcode that names, builds or fetches something: what names os.system, calls
# it or asks for an extension or a persistent object must end before anything happens.
CALLING = {
    "GLOBAL": b"cos\nsystem\n.",
    "STACK_GLOBAL": b"\x8c\x02os\x8c\x06system\x93.",
    "REDUCE": b"K\x01)R.",
    "INST": b"(ios\nsystem\n.",
    "OBJ": b"(K\x01K\x02o.",
    "NEWOBJ": b"K\x01)\x81.",
    "NEWOBJ_EX": b"K\x01)}\x92.",
    "BUILD": b"K\x01}b.",
    "EXT1": b"\x82\x01.",
    "EXT2": b"\x83\x01\x00.",
    "EXT4": b"\x84\x01\x00\x00\x00.",
    "PERSID": b"Pobject\n.",
    "BINPERSID": b"K\x01Q.",
    "NEXT_BUFFER": b"\x97.",
    "READONLY_BUFFER": b"K\x01\x98.",
}


@pytest.mark.parametrize("name", CALLING)
def test_each_opcode_that_could_call_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError, match="is refused|takes no such state"):
        loads(CALLING[name])


def test_every_opcode_of_python_is_either_plain_or_known_to_this_test() -> None:
    plain = {"PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "DUP", "NONE", "NEWTRUE"}
    plain |= {"NEWFALSE", "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"}
    plain |= {"FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE"}
    plain |= {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"}
    plain |= {"BINBYTES8", "BYTEARRAY8", "EMPTY_LIST", "APPEND", "APPENDS", "LIST", "EMPTY_TUPLE"}
    plain |= {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_DICT", "DICT", "SETITEM", "SETITEMS"}
    plain |= {"EMPTY_SET", "ADDITEMS", "FROZENSET", "PUT", "BINPUT", "LONG_BINPUT", "GET"}
    plain |= {"BINGET", "LONG_BINGET", "MEMOIZE"}
    assert {opcode.name for opcode in pickletools.opcodes} == plain | CALLING.keys()


@pytest.mark.parametrize(
    "data",
    [
        b"cnumpy\nload\n.",
        b"cnumpy\nndarray.tofile\n.",
        b"clerobot.async_inference.helpers\npickle.loads\n.",
        b"clerobot.async_inference.helpers\nos\n.",
        b"ctorch\nload\n.",
        b"ctorch.storage\n_load_from_bytes\nC\x04cos\n\x85R.",
        b"cbuiltins\neval\n.",
        b"c__builtin__\ngetattr\n.",
        b"cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.",
        b"cnumpy\ndtype\nX\x02\x00\x00\x00V8\x85R.",
        b"cnumpy\ndtype\nX\x02\x00\x00\x00c8\x85R.",
        b"K\x01)R.",
        b"]}b.",
        b"}]K\x01s.",
        b")(e.",
        b"(.",
        b"e.",
        b"R.",
        b"0.",
        b"h\x05.",
        b".",
        b"",
        b"X\xff\xff\xff\x7fa.",
        b"]" * 200_000 + b".",
    ],
)
def test_other_names_and_broken_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        loads(data)


def test_a_tensor_that_is_larger_than_its_storage_is_refused() -> None:
    whole = pickle.dumps(torch.zeros(2), 2)
    at = whole.rindex(b"K\x02\x85")
    with pytest.raises(ProtocolError, match="larger than its storage"):
        loads(whole[:at] + b"J\x00\x00\x00\x7f\x85" + whole[at + 3 :])


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_changed_pickles_are_read_or_refused(data: st.DataObject) -> None:
    value = ARRAYS[data.draw(st.integers(0, len(ARRAYS) - 1))]
    whole = bytearray(pickle.dumps(TimedObservation(1.5, 3, {"x": value})))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ProtocolError):
        loads(bytes(whole))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from([op.code for op in pickletools.opcodes]), max_size=30))
def test_any_opcodes_are_read_or_refused(codes: list[str]) -> None:
    with contextlib.suppress(ProtocolError):
        loads("".join(codes).encode("latin-1") + b"K\x01.")
