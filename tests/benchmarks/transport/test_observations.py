"""The observations have the sizes that their names say."""

from __future__ import annotations

import msgpack
import msgpack_numpy
import numpy as np
import pytest

from benchmarks.peers import req_rep
from benchmarks.transport.observations import ACTIONS, LAYOUTS, label, make_observation


@pytest.mark.parametrize(
    ("size", "expected"),
    [("libero", "libero 301 KB"), ("aloha", "aloha 451 KB"), ("camera", "camera 2.8 MB")],
)
def test_sizes(size: str, expected: str) -> None:
    observation = make_observation(size)
    arrays = [value for value in observation.values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in arrays) == LAYOUTS[size].bytes
    assert label(size) == expected
    assert isinstance(observation["prompt"], str)


def test_the_plain_peer_speaks_msgpack_numpys_form() -> None:
    observation = make_observation("libero")
    packed = req_rep.pack(observation)
    assert packed == msgpack.packb(observation, default=msgpack_numpy.encode)
    received = req_rep.unpack(packed)
    assert all(np.array_equal(received[key], observation[key]) for key in observation)
    answer = req_rep.unpack(req_rep.pack({"actions": ACTIONS}))["actions"]
    assert (answer.shape, answer.dtype) == (ACTIONS.shape, ACTIONS.dtype)
