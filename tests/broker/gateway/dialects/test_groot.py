"""GR00T's ZeroMQ, by a client written from what is known of theirs."""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgpack
import msgpack_numpy
import numpy as np
import pytest
import zmq

from tests.broker.gateway.site import KEYS, RunningGateway, Site
from tests.e2e.stack import WAIT_S, eventually
from worker.policies.echo import fingerprint

VIDEO = np.random.default_rng(3).integers(0, 256, (1, 1, 24, 32, 3), np.uint8)
PARTS = {"left_arm": 6, "left_hand": 1, "right_arm": 6, "right_hand": 1}


def observation(first: float = 0.0, batch: int = 1) -> dict[str, Any]:
    state = {
        name: np.full((batch, 1, size), first + at, np.float32)
        for at, (name, size) in enumerate(PARTS.items())
    }
    video = np.repeat(VIDEO, batch, 0)
    return {"video": {"ego_view": video}, "state": state, "language": {"task": [["fold"]] * batch}}


def expected(first: float = 0.0) -> np.float32:
    state = np.concatenate(
        [np.full(size, first + at, np.float32) for at, size in enumerate(PARTS.values())]
    )
    ours = {
        "images": {"cam_high": np.moveaxis(VIDEO[0, 0], -1, 0)},
        "state": state,
        "prompt": "fold",
    }
    return np.float32(fingerprint(ours))


def to_npy(value: Any) -> Any:
    file = io.BytesIO()
    np.save(file, value)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def from_npy(found: dict[str, Any]) -> Any:
    if "__ndarray_class__" in found:
        return np.load(io.BytesIO(found["as_npy"]), allow_pickle=False)
    return found


class Client:
    """A REQ socket with one of the two forms of arrays."""

    def __init__(self, socket: zmq.Socket[bytes], form: str) -> None:
        self._socket, self._form = socket, form

    def raw(self, *frames: bytes) -> Any:
        self._socket.send_multipart(frames)
        answer = self._socket.recv()
        if self._form == "npy":
            return msgpack.unpackb(answer, object_hook=from_npy)
        return msgpack.unpackb(answer, object_hook=msgpack_numpy.decode)

    def call(self, endpoint: str, robot: str | None = "arm-1", **data: Any) -> Any:
        encode = to_npy if self._form == "npy" else msgpack_numpy.encode
        token = {} if robot is None else {"api_token": KEYS.get(robot, robot)}
        return self.raw(
            msgpack.packb({"endpoint": endpoint, "data": data, **token}, default=encode)
        )


@contextmanager
def connected(gateway: RunningGateway, form: str = "npy") -> Iterator[Client]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        found = context.socket(zmq.REQ)
        found.setsockopt(zmq.LINGER, 0)
        found.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1e3))
        found.connect(f"tcp://127.0.0.1:{gateway.ports['groot']}")
        yield Client(found, form)
    finally:
        context.destroy(linger=0)


@pytest.mark.parametrize("form", ["npy", "msgpack_numpy"])
def test_an_action_is_answered_in_the_form_of_its_question(
    dialects: RunningGateway, form: str
) -> None:
    with connected(dialects, form) as client:
        assert client.call("ping")["status"] == "ok"
        actions, extra = client.call("get_action", observation=observation(), options={"seed": 3})
        assert client.call("reset", options=None)["status"] == "ok"
    assert extra == {}
    assert {name: value.shape for name, value in actions.items()} == {
        name: (1, 50, size) for name, size in PARTS.items()
    }
    assert {value.dtype for value in actions.values()} == {np.dtype(np.float32)}
    assert set(actions["left_hand"].ravel()) == {expected()}


def test_each_row_of_a_batch_is_a_question(dialects: RunningGateway) -> None:
    asked = observation(batch=2)
    asked["state"]["left_arm"][1] += 5
    with connected(dialects) as client:
        actions, _ = client.call("get_action", observation=asked)
    assert actions["left_arm"].shape == (2, 50, 6)
    assert actions["left_arm"][0, 0, 0] == expected()
    assert actions["left_arm"][1, 0, 0] != expected()


def test_a_flat_observation_has_a_flat_answer(dialects: RunningGateway) -> None:
    nested = observation()
    flat = {"video.ego_view": nested["video"]["ego_view"][0], "language.task": ["fold"]}
    flat.update({f"state.{name}": value[0] for name, value in nested["state"].items()})
    with connected(dialects) as client:
        actions = client.call("get_action", **flat)
    assert actions["action.right_arm"].shape == (50, 6)
    assert actions["action.right_arm"][0, 0] == expected()


def test_the_modality_configuration_is_the_mapping(dialects: RunningGateway) -> None:
    with connected(dialects) as client:
        found = client.call("get_modality_config")
    assert found["state"]["__ModalityConfig_class__"] is True
    assert found["state"]["as_json"]["modality_keys"] == list(PARTS)
    assert found["action"]["as_json"]["delta_indices"] == list(range(50))


@pytest.mark.parametrize("robot", [None, "a-key-that-nobody-has"])
def test_a_wrong_token_is_an_error(dialects: RunningGateway, robot: str | None) -> None:
    with connected(dialects) as client:
        assert client.call("ping", robot=robot)["error"].startswith("forbidden: ")


def test_kill_and_others_are_refused_and_it_lives(dialects: RunningGateway) -> None:
    with connected(dialects) as client:
        assert "'kill' is refused" in client.call("kill")["error"]
        assert "'fly' is refused" in client.call("fly")["error"]
        assert client.call("ping")["status"] == "ok"


def packed(**fields: Any) -> bytes:
    whole = {"endpoint": "get_action", "api_token": KEYS["arm-1"], **fields}
    found: bytes = msgpack.packb(whole)
    return found


def npy(descr: str, shape: str = "(1,)", data: bytes = b"\x00" * 8) -> dict[str, Any]:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    file = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data
    return {"observation": {"state": {"__ndarray_class__": True, "as_npy": file}}}


def deep(levels: int) -> dict[str, Any]:
    return {"a": deep(levels - 1)} if levels else {}


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        os.urandom(500),
        b"\x80\x04\x95",  # a pickle's first bytes
        msgpack.packb([1]),
        packed(data=[1]),
        packed(data={"observation": 5}),
        packed(data={"observation": {}}),
        packed(data={"observation": {"video": {"a": [1, 2]}, "state": {"b": [3]}}}),
        packed(data={"observation": deep(100)}),
        packed(data={"observation": {"s": {"__ndarray_class__": True, "as_npy": b"PK"}}}),
        packed(data={"observation": {"s": {"__ndarray_class__": True}}}),
        packed(data=npy("'|O'")),
        packed(data=npy("'|V8'")),
        packed(data=npy("'<c8'")),
        packed(data=npy("[('a', '<f8')]")),
        packed(data=npy("'<f8'", "(1099511627776, 1099511627776)")),
        packed(data=npy("'<f8'", "(-1,)")),
        packed(data=npy("'<f8'", "(2,)")),
        packed(data=npy("'<f8'", "(" * 5000)),
    ],
)
def test_bad_input_is_an_error_and_the_next_is_served(
    dialects: RunningGateway, message: bytes
) -> None:
    with connected(dialects) as client:
        assert set(client.raw(message)) == {"error"}
        assert client.call("ping")["status"] == "ok"


def test_more_frames_than_one_are_an_error(dialects: RunningGateway) -> None:
    with connected(dialects) as client:
        assert "one frame" in client.raw(b"one", b"two")["error"]


@pytest.mark.parametrize("size", [9_000_000, 60_000_000])
def test_a_message_that_is_too_large_is_an_error(dialects: RunningGateway, size: int) -> None:
    with connected(dialects) as client:
        assert client.raw(bytes(size))["error"].startswith("message_too_large: ")


def test_garbage_and_half_a_handshake_bother_nobody(dialects: RunningGateway) -> None:
    address = ("127.0.0.1", dialects.ports["groot"])
    for data in (os.urandom(4096), b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03"):
        with socket.create_connection(address, WAIT_S) as found:
            found.sendall(data)
            with connected(dialects) as client:
                assert client.call("ping")["status"] == "ok"


def test_clients_at_once_get_each_their_own(dialects: RunningGateway) -> None:
    def ask(number: int) -> bool:
        with connected(dialects) as client:
            actions, _ = client.call("get_action", observation=observation(number))
        return bool(actions["left_arm"][0, 0, 0] == expected(number))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(8)))


def test_others_are_answered_while_an_inference_hangs(
    shared_site: Site, dialects: RunningGateway
) -> None:
    shared_site.stack.close_gate()
    try:
        with (
            connected(dialects) as client,
            connected(dialects) as other,
            ThreadPoolExecutor(1) as threads,
        ):
            waiting = threads.submit(
                client.call, "get_action", robot="gate", observation=observation()
            )
            inside = shared_site.stack.folder
            eventually(lambda: list(inside.glob("*.inside")), "the worker has it")
            assert other.call("ping")["status"] == "ok"
            actions, _ = other.call("get_action", observation=observation())
            assert actions["left_arm"][0, 0, 0] == expected()
            assert not waiting.done()
            shared_site.stack.open_gate()
            # The policy `staged` has two columns, and the mapping wants fourteen.
            assert waiting.result(WAIT_S)["error"].startswith("policy_failed: ")
    finally:
        shared_site.stack.open_gate()
