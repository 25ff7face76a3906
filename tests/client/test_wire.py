"""A header that passes the decoder holds only values in range; any other gets a typed error."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.errors import PolicyError, ProtocolError, VersionMismatch
from client.wire import (
    FIELDS,
    FROM_CLIENT,
    FROM_WORKER,
    KINDS,
    MAX_CLIENT,
    MAX_HEADER,
    MAX_HOST,
    MAX_INT,
    MAX_MEMORY,
    MAX_SLOTS,
    TO_CLIENT,
    TO_WORKER,
    Kinds,
    RequestId,
    decode_header,
    encode_header,
)

UUID = bytes(range(16))
ID = [UUID, 7]
INFINITY, NAN = float("inf"), float("nan")

# For every field: what is taken, and what is refused.
GOOD: dict[str, list[Any]] = {
    "v": [1],
    "kind": sorted(KINDS),
    "id": [ID, [b"r", 0], [bytes(MAX_CLIENT), MAX_INT]],
    "policy": ["p", "x" * 128, "ü"],
    "version": ["p", "x" * 128, "ü"],
    "deadline_ms": [0, 0.5, 86_400_000],
    "traffic": ["live", "evaluation"],
    "priority": [0, 9],
    "session": ["", "s" * 128],
    "robot": ["", "r" * 128],
    "buffers": [True, False],
    "held": [0, MAX_INT],
    "attempt": [1, 1000],
    "batch": [1, MAX_SLOTS],
    "epoch": [0, MAX_INT],
    "incarnation": [UUID],
    "digest": ["", "d" * 128],
    "horizon": [0, 100_000],
    "state": ["warming", "ready", "draining"],
    "slots": [0, MAX_SLOTS],
    "grant": [0, 2**63 - 1],
    "waiting": [0, 2**63 - 1],
    "inference_ms": [0, 1.5],
    "breaches": [{}, {"left_waist/rate": 1, "gripper/limits": 100_000}],
    "ids": [[], [[ID, 1]], [[ID, 1]] * MAX_SLOTS],
    "n": [0, MAX_INT],
    "heartbeat_ms": [1, 100.0],
    "max_bytes": [1, MAX_INT],
    "ipc": ["ipc://@broker"],
    "host": [b"h", bytes(MAX_HOST)],
    "memory": [b"m", bytes(MAX_MEMORY)],
    "written": [0, MAX_INT],
    "timing": [{}, {"queue_ms": 0.5, "infer_ms": 3}],
    "code": ["no_worker", "c" * 64],
    "message": ["", "m" * 2048],
    "retry_after_ms": [0, 5.0],
}
NO_INTEGERS: list[Any] = [None, "1", b"1", 1.0, True, [1], {}, -1, 2**63]
NO_NUMBERS: list[Any] = [None, "1", b"1", True, [1], {}, -1, -0.001, NAN, INFINITY, 86_400_001]
NO_TEXTS: list[Any] = [None, 1, b"x", ["x"], {}, True]
BAD: dict[str, list[Any]] = {
    "v": [None, "1", 0, 2, 1.0, True, [1], {}, NAN, 2**64 - 1],
    "kind": [*NO_TEXTS, "", "INFER", "unknown", "x" * 1000],
    "id": [
        *(
            None,
            UUID,
            [],
            [UUID],
            [UUID, 1, 2],
            ["text", 1],
            [b"", 1],
            [bytes(MAX_CLIENT + 1), 1],
            [UUID, -1],
        ),
        *([UUID, 2**63], [UUID, 1.0], [UUID, True], [UUID, None], {}, {"0": UUID}),
    ],
    "policy": [*NO_TEXTS, "", "x" * 129],
    "version": [*NO_TEXTS, "", "x" * 129],
    "deadline_ms": NO_NUMBERS,
    "traffic": ["", "Live", "eval", 1, None, ["live"]],
    "priority": [*NO_INTEGERS, 10],
    "session": [*NO_TEXTS, "x" * 129],
    "robot": [*NO_TEXTS, "x" * 129],
    "held": NO_INTEGERS,
    "buffers": [None, 0, 1, "true", [], {}],
    "attempt": [*NO_INTEGERS, 0, 1001],
    "batch": [*NO_INTEGERS, 0, MAX_SLOTS + 1],
    "epoch": NO_INTEGERS,
    "incarnation": [None, bytes(15), bytes(17), "x" * 16, 16, []],
    "digest": [*NO_TEXTS, "x" * 129],
    "horizon": [*NO_INTEGERS, 100_001],
    "state": [*NO_TEXTS, "", "gone", "READY"],
    "slots": [*NO_INTEGERS, -1, MAX_SLOTS + 1],
    "grant": [*NO_INTEGERS, -1],
    "waiting": [*NO_INTEGERS, -1],
    "inference_ms": NO_NUMBERS,
    "ids": [
        *(None, {}, ID, [ID], [[ID]], [[ID, 0]], [[ID, "1"]], [[[], 1]], [None], "ids"),
        [[[b"r", 1], 1]] * (MAX_SLOTS + 1),
    ],
    "n": NO_INTEGERS,
    "heartbeat_ms": [*NO_NUMBERS, 0, 0.5],
    "max_bytes": [*NO_INTEGERS, 0],
    "ipc": [*NO_TEXTS, "", "x" * 129],
    "host": [None, "h", b"", bytes(MAX_HOST + 1), 1, [b"h"]],
    "memory": [None, "m", b"", bytes(MAX_MEMORY + 1), {}, True],
    "written": NO_INTEGERS,
    "timing": [
        *(None, [], "x", {1: 1.0}, {"x": "1"}, {"x": None}, {"x": NAN}, {"x": INFINITY}),
        *({"x": True}, {"x": {}}, {str(stage): 1.0 for stage in range(33)}),
    ],
    "breaches": [
        *(None, [], "x", {1: 1}, {"x": "1"}, {"x": None}, {"x": NAN}, {"x": INFINITY}, {"x": 0}),
        *({"x": True}, {"x": {}}, {"x": -1}, {"x": 100_001}, {str(rule): 1 for rule in range(33)}),
    ],
    "code": [*NO_TEXTS, "", "x" * 65],
    "message": [*NO_TEXTS, "x" * 2049],
    "retry_after_ms": NO_NUMBERS,
}


def header(**fields: Any) -> bytes:
    """A header that would be fine but for `fields`."""
    packed: bytes = msgpack.packb({"v": 1, "kind": "infer", **fields})
    return packed


def complaint(frame: bytes) -> str:
    """What is wrong with a header, "" if nothing; any error but a `PolicyError` fails the test."""
    try:
        decode_header(frame)
    except PolicyError as error:
        return str(error)
    return ""


def test_every_field_is_tested() -> None:
    assert set(GOOD) == set(BAD) == set(FIELDS)


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_in_range(field: str) -> None:
    for value in GOOD[field]:
        assert field in decode_header(header(**{field: value}))


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_out_of_range(field: str) -> None:
    for value in BAD[field]:
        with pytest.raises(VersionMismatch if field == "v" else ProtocolError) as caught:
            decode_header(header(**{field: value}))
        assert field in str(caught.value) or field == "v", value
        assert len(str(caught.value)) < 500


def test_what_becomes_of_ids() -> None:
    decoded = decode_header(header(id=ID, ids=[[ID, 2]]))
    assert decoded["id"] == RequestId(UUID, 7)
    assert decoded["ids"] == [(RequestId(UUID, 7), 2)]


def test_round_trip() -> None:
    sent = {"v": 1, "kind": "result", "id": RequestId(UUID, 3), "timing": {"queue_ms": 0.25}}
    assert decode_header(encode_header(sent), TO_CLIENT) == sent


def test_only_version_and_kind_are_needed() -> None:
    assert decode_header(header()) == {"v": 1, "kind": "infer"}


def test_fields_of_a_later_version_are_kept() -> None:
    assert decode_header(header(new=[1, 2]))["new"] == [1, 2]


@pytest.mark.parametrize("expected", [FROM_CLIENT, TO_CLIENT, FROM_WORKER, TO_WORKER])
def test_a_kind_that_this_peer_may_not_send(expected: Kinds) -> None:
    for kind in KINDS.keys() - expected.keys():
        with pytest.raises(ProtocolError, match=kind):
            decode_header(header(kind=kind), expected)


@pytest.mark.parametrize(
    ("kinds", "kind", "missing"),
    [
        (kinds, kind, missing)
        for kinds in (FROM_CLIENT, TO_CLIENT, FROM_WORKER, TO_WORKER)
        for kind, needed in kinds.items()
        for missing in needed
    ],
)
def test_what_a_kind_needs(kinds: Kinds, kind: str, missing: str) -> None:
    """`{"v": 1, "kind": "infer"}` ended a worker: it looked for the id behind this check."""
    values = {"id": [bytes(16), 1], "attempt": 1, "epoch": 1, "policy": "p", "code": "c"}
    values["incarnation"] = bytes(16)
    fields = {"v": 1, "kind": kind, **{name: values[name] for name in kinds[kind]}}
    decode_header(msgpack.packb(fields), kinds)
    del fields[missing]
    with pytest.raises(ProtocolError, match=f"{kind} needs the header field '{missing}'"):
        decode_header(msgpack.packb(fields), kinds)


@pytest.mark.parametrize("missing", ["v", "kind"])
def test_what_every_header_needs(missing: str) -> None:
    fields = {"v": 1, "kind": "infer"}
    del fields[missing]
    with pytest.raises(PolicyError):
        decode_header(msgpack.packb(fields))


def test_the_longest_header() -> None:
    room = MAX_HEADER - len(header(more="x" * 256)) + 256
    assert decode_header(header(more="x" * room))
    with pytest.raises(ProtocolError, match=f"{MAX_HEADER + 1} bytes: at most {MAX_HEADER}"):
        decode_header(header(more="x" * (room + 1)))


@pytest.mark.parametrize("value", [None, 1, "text", b"x", [], [1, "infer"], True, 1.5])
def test_a_header_is_a_map(value: Any) -> None:
    with pytest.raises(ProtocolError, match="map is expected"):
        decode_header(msgpack.packb(value))


@pytest.mark.parametrize("frame", [b"", b"\xc1", b"GET / HTTP/1.1\r\n", bytes(100), b"\xff" * 9])
def test_what_is_no_header(frame: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_header(frame)


def test_truncation_anywhere() -> None:
    whole = header(id=ID, policy="aloha", timing={"x": 1.0})
    for length in range(len(whole)):
        with pytest.raises(ProtocolError):
            decode_header(whole[:length])
    with pytest.raises(ProtocolError):
        decode_header(whole + b"\0")


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1x"], ids=["lists", "maps"])
@pytest.mark.parametrize("field", FIELDS)
def test_a_nesting_bomb(field: str, opening: bytes) -> None:
    """As deep as msgpack goes is deeper than Python's `repr` can."""
    for depth in (100, 600, 1015, 1300):
        bomb = header(**{field: "HERE"}).replace(msgpack.packb("HERE"), opening * depth + b"\xc0")
        with pytest.raises(PolicyError) as caught:
            decode_header(bomb)
        assert len(str(caught.value)) < 500


def test_keys_of_any_type() -> None:
    assert complaint(msgpack.packb({"v": 1, "kind": "ping", 1: 2, b"x": 3, None: 4})) == ""
    assert complaint(b"\x83\xa1v\x01\xa4kind\xa4ping\x90\xc0")  # the last key is a list


@given(st.binary(max_size=300))
def test_random_bytes(frame: bytes) -> None:
    assert 0 < len(complaint(frame)) < 500


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)), anything, max_size=4))
def test_random_fields(fields: dict[str, Any]) -> None:
    assert len(complaint(header(**fields))) < 500


@given(st.integers(0, 60), st.integers(0, 255))
def test_a_flipped_byte(place: int, value: int) -> None:
    damaged = bytearray(header(id=ID, policy="aloha", deadline_ms=10.0, buffers=True))
    damaged[place % len(damaged)] = value
    assert len(complaint(bytes(damaged))) < 500
