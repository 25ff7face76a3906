"""Whatever comes to the sockets, it ends in one error, and nobody else notices."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from client import ZmqPolicyClient
from client.errors import PolicyError
from tests.broker.gateway.site import KEYS, RunningGateway, Site
from tests.e2e.stack import WAIT_S, eventually
from worker.policies.echo import fingerprint

OBSERVATION = {"state": np.arange(14, dtype=np.float32)}


@pytest.fixture(autouse=True)
def others_are_served(gateway: RunningGateway) -> Iterator[None]:
    """While the test runs, another client is connected, and is served after it."""
    with gateway.connect() as client:
        yield
        assert client.ask(OBSERVATION)["actions"][0, 0] == fingerprint(OBSERVATION)


@contextmanager
def raw(gateway: RunningGateway) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", gateway.ports["openpi"]), WAIT_S) as found:
        yield found


def read_to_end(found: socket.socket) -> bytes:
    """All until the other side closes, be it in order or not."""
    read = b""
    try:
        while chunk := found.recv(65536):
            read += chunk
    except ConnectionResetError:
        pass
    return read


@pytest.mark.parametrize(
    "garbage",
    [os.urandom(4096), b"\x00" * 4096, b"A" * 100_000, b"POST / HTTP/1.1\r\nHost: a\r\n\r\n"],
    ids=["random", "zeros", "an endless line", "a post"],
)
def test_garbage_is_hung_up_on(gateway: RunningGateway, garbage: bytes) -> None:
    with raw(gateway) as found:
        found.sendall(garbage)
        assert b"Traceback" not in read_to_end(found)


def test_half_a_handshake_is_hung_up_on(gateway: RunningGateway) -> None:
    with raw(gateway) as found:
        found.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nUpgra")
        assert read_to_end(found) == b""


def test_half_a_frame_keeps_nobody(gateway: RunningGateway) -> None:
    headers = {"Authorization": f"Api-Key {KEYS['arm-1']}"}
    with connect(gateway.url(), additional_headers=headers) as client:
        client.recv(WAIT_S)
        client.socket.sendall(b"\x82\xff\x00\x00\x00\x00\x00\x10\x00\x00mask half of it")
        client.socket.shutdown(socket.SHUT_RDWR)


def test_a_message_of_100_mb_is_refused(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        with suppress(ConnectionClosed):  # while it was still being sent
            client.socket.send(b"\x00" * 100_000_000)
        with pytest.raises(ConnectionClosed) as closed:
            client.receive()
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    eventually(lambda: 'reason="message_too_large"' in gateway.get("/metrics")[1], "it is counted")


def test_a_client_that_never_reads_is_hung_up_on(gateway: RunningGateway) -> None:
    image = np.zeros(3_900_000, np.uint8)  # the echo comes back
    with gateway.connect(max_queue=1) as client:
        for _ in range(8):
            try:
                client.send({"image": image})
            except ConnectionClosed:
                break
        eventually(lambda: 'reason="does not read"' in gateway.get("/metrics")[1], "hung up")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("hello", "protocol_error: a text came"),
        (b"\xc1", "protocol_error: the message is not msgpack"),
        (b"", "protocol_error: the message is not msgpack"),
        (msgpack.packb([1, 2]), "protocol_error: a list came"),
        (msgpack.packb(None), "protocol_error: a NoneType came"),
        (msgpack.packb({"endpoint": "kill"}), "protocol_error: endpoint 'kill' is unknown"),
        (msgpack.packb({"endpoint": [1]}), "protocol_error: endpoint [1] is unknown"),
        (msgpack.packb({"session_id": 5}), "bad_observation: session_id"),
        (b"\x91" * 5000, "protocol_error: the message is not msgpack"),
        (msgpack.packb(msgpack.ExtType(5, b"x")), "protocol_error: extension type 5"),
        (msgpack.packb({"a": msgpack.ExtType(5, b"x")}), "protocol_error: extension type 5"),
        (
            msgpack.packb({"prev_action": 1, "use_rtc": True, "obs": {}}),
            "bad_observation: prev_action must be an array",
        ),
    ],
)
def test_a_message_that_is_no_observation_is_told_so(
    gateway: RunningGateway, message: str | bytes, reason: str
) -> None:
    with gateway.connect() as client:
        client.socket.send(message)
        assert client.receive().startswith(reason)
        assert client.ask(OBSERVATION)["actions"][0, 0] == fingerprint(OBSERVATION)


def array(**fields: Any) -> bytes:
    form = {b"__ndarray__": True, b"data": b"\x00" * 8, b"dtype": "<f8", b"shape": [1]}
    form.update({key.encode(): value for key, value in fields.items()})
    packed: bytes = msgpack.packb({"state": form})
    return packed


@pytest.mark.parametrize(
    "message",
    [
        array(dtype="|O"),
        array(dtype="|V8"),
        array(dtype="<c8"),
        array(dtype=[["a", "<f8"]]),
        array(dtype="f8,O"),
        array(dtype=7),
        array(dtype="<M8[s]"),
        array(shape=[2**40, 2**40]),
        array(shape=[-1]),
        array(shape=[1.0]),
        array(shape="1"),
        array(data="text"),
        array(data=b"short"),
        array(shape=[1] * 64),
    ],
)
def test_an_array_that_cannot_be_is_refused(gateway: RunningGateway, message: bytes) -> None:
    with gateway.connect() as client:
        client.socket.send(message)
        assert client.receive().startswith("protocol_error: ")


def test_a_zeromq_client_at_the_websocket_is_hung_up_on(gateway: RunningGateway) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        dealer = context.socket(zmq.DEALER)
        dealer.setsockopt(zmq.LINGER, 0)
        monitor = dealer.get_monitor_socket(
            zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        )
        dealer.connect(f"tcp://127.0.0.1:{gateway.ports['openpi']}")
        dealer.send(b"hello")
        assert monitor.poll(int(WAIT_S * 1e3)), "it was never hung up on"
        dealer.disable_monitor()
        monitor.close(linger=0)
    finally:
        context.destroy(linger=0)


def test_a_zmq_policy_client_at_the_websocket_is_told(gateway: RunningGateway) -> None:
    with pytest.raises(PolicyError, match="broker"):
        ZmqPolicyClient("127.0.0.1", gateway.ports["openpi"], connect_timeout_s=1.0)


def test_a_browser_at_the_zeromq_port_bothers_nobody(shared_site: Site) -> None:
    address = ("127.0.0.1", shared_site.stack.frontend)
    with socket.create_connection(address, WAIT_S) as found:
        found.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nAccept: text/html\r\n\r\n")
        with shared_site.stack.client(policy="echo") as robot:
            assert robot.infer(OBSERVATION)["actions"][0, 0] == fingerprint(OBSERVATION)


def test_a_browser_at_the_websocket_is_told_where_the_page_is(gateway: RunningGateway) -> None:
    status, text = gateway.get("/", "openpi", robot=None)
    assert status == 426
    assert "http.listen" in text


def test_a_page_of_elsewhere_may_not_connect(gateway: RunningGateway) -> None:
    headers = {"Authorization": f"Api-Key {KEYS['arm-1']}", "Origin": "https://elsewhere.example"}
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(gateway.url(), additional_headers=headers),
    ):
        pass
    assert refused.value.response.status_code == 403
