"""The return envelope is everything up to and including the first empty frame."""

from __future__ import annotations

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st

from client.errors import ProtocolError
from client.wire import split_envelope

frames = st.lists(st.binary(min_size=1, max_size=5).map(zmq.Frame), max_size=4)


@given(frames, frames)
def test_split(route: list[zmq.Frame], message: list[zmq.Frame]) -> None:
    empty = zmq.Frame(b"")
    assert split_envelope([*route, empty, *message]) == ([*route, empty], message)


@given(frames)
def test_only_the_first_empty_frame_counts(message: list[zmq.Frame]) -> None:
    empty = zmq.Frame(b"")
    envelope, rest = split_envelope([empty, *message, empty])
    assert envelope == [empty]
    assert rest == [*message, empty]


@given(frames)
def test_no_empty_frame(message: list[zmq.Frame]) -> None:
    with pytest.raises(ProtocolError, match="no empty frame"):
        split_envelope(message)
