"""Which of two sockets a robot on the broker's host asks: by TCP, or the Unix socket beside it."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from client import ZmqPolicyClient
from client.connection import Connection
from client.nearby import beside, is_heard, is_trusted
from client.wire import RequestId, encode_header
from scripts.local.processes import free_ports
from tests.client.scripted_broker import ScriptedBroker

WAIT_S = 60.0  # for what should take milliseconds; the machine may be busy
STRANGER = 65_534  # `nobody`, a user who is neither root nor we


@pytest.fixture
def by_tcp() -> Iterator[ScriptedBroker]:
    with ScriptedBroker() as broker:
        yield broker


def address_of(broker: ScriptedBroker) -> str:
    return beside(f"tcp://127.0.0.1:{broker.port}")


def connect(broker: ScriptedBroker) -> ZmqPolicyClient:
    return ZmqPolicyClient("127.0.0.1", broker.port, timeout_s=WAIT_S)


def ask_until(client: ZmqPolicyClient, is_enough: Callable[[], bool]) -> None:
    """Ask again and again: a lost connection is noticed a moment after it is lost."""
    give_up = time.monotonic() + WAIT_S
    while not is_enough():
        assert time.monotonic() < give_up
        assert "actions" in client.infer({})


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("tcp://127.0.0.1:8000", "ipc://@zmq-policy-broker-port-8000"),
        ("tcp://localhost:08000", "ipc://@zmq-policy-broker-port-8000"),
        ("tcp://0.0.0.0:8000", "ipc://@zmq-policy-broker-port-8000"),
        ("tcp://*:8000", "ipc://@zmq-policy-broker-port-8000"),
        ("tcp://10.0.0.5:8000", ""),
        ("tcp://127.0.0.2:8000", ""),
        ("tcp://[::1]:8000", ""),
        ("tcp://eth0;127.0.0.1:8000", ""),
        ("tcp://127.0.0.1:*", ""),
        ("ipc:///run/broker", ""),
    ],
)
def test_only_ports_of_loopback_have_one(endpoint: str, name: str) -> None:
    assert beside(endpoint) == name


def test_it_asks_where_it_costs_less(by_tcp: ScriptedBroker) -> None:
    with ScriptedBroker(endpoint=address_of(by_tcp)) as near, connect(by_tcp) as client:
        client.infer({})
        assert (len(near.requests), len(by_tcp.requests)) == (1, 0)


def test_large_messages_go_by_tcp(by_tcp: ScriptedBroker) -> None:
    endpoint = f"tcp://127.0.0.1:{by_tcp.port}"
    with ScriptedBroker(endpoint=address_of(by_tcp)) as near:
        with ZmqPolicyClient(endpoint, timeout_s=WAIT_S, shared_memory=False) as client:
            client.infer({})
        assert (len(near.requests), len(by_tcp.requests)) == (0, 1)


def test_it_asks_by_tcp_where_nobody_listens_beside(by_tcp: ScriptedBroker) -> None:
    with connect(by_tcp) as client:
        client.infer({})
    assert len(by_tcp.requests) == 1


def test_a_socket_that_was_connected_too_early_moves_before_it_is_used(
    by_tcp: ScriptedBroker,
) -> None:
    connection = Connection(f"tcp://127.0.0.1:{by_tcp.port}", may_be_beside=True)
    with ScriptedBroker(endpoint=address_of(by_tcp)) as near:
        try:
            header = {"v": 1, "kind": "metadata", "id": RequestId(bytes(16), 0)}
            until = time.monotonic() + WAIT_S
            assert connection.send([encode_header(header)], until)
            assert connection.receive(until)
        finally:
            connection.close()
        assert (len(near.requests), len(by_tcp.requests)) == (1, 0)


def test_it_goes_on_by_tcp_when_that_one_closes(by_tcp: ScriptedBroker) -> None:
    near = ScriptedBroker(endpoint=address_of(by_tcp))
    with connect(by_tcp) as client:
        client.infer({})
        near.close()
        ask_until(client, lambda: bool(by_tcp.requests))
        by_tcp.requests.clear()
        client.infer({})
    assert (len(near.requests), len(by_tcp.requests)) == (1, 1)


@contextlib.contextmanager
def stranger_at(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedBroker]:
    """Somebody else's broker: a Unix socket belongs to whoever began to listen."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(STRANGER)
    try:
        broker = ScriptedBroker(endpoint=address)
    finally:
        if user == 0:
            os.seteuid(user)
        else:
            monkeypatch.setattr(os, "getuid", lambda: STRANGER)  # then we are the stranger
    with broker:
        yield broker


def test_a_stranger_who_took_the_name_is_sent_nothing(
    by_tcp: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        stranger_at(address_of(by_tcp), monkeypatch) as stranger,
        connect(by_tcp) as client,
    ):
        client.infer({})
        client.infer({})
        assert (len(stranger.requests), len(by_tcp.requests)) == (0, 2)


def test_nor_is_one_who_takes_it_when_the_broker_has_gone(
    by_tcp: ScriptedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    near = ScriptedBroker(endpoint=address_of(by_tcp))
    with connect(by_tcp) as client:
        client.infer({})
        assert len(near.requests) == 1
        near.close()
        with stranger_at(address_of(by_tcp), monkeypatch) as stranger:
            time.sleep(0.1)  # libzmq would connect again after a tenth of that
            ask_until(client, lambda: len(by_tcp.requests) > 1)
            assert not stranger.requests


def test_what_only_has_the_name_is_not_heard() -> None:
    """A connection outlives its listener, and names may hold line ends."""
    address = beside(f"tcp://127.0.0.1:{free_ports(1)[0]}")
    name = address[len("ipc://@") :]
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as ours:
        listener.bind(f"\0{name}")
        listener.listen()
        assert is_heard(address)
        ours.connect(f"\0{name}")
        theirs, _ = listener.accept()
        listener.close()
        assert not is_heard(address)
        theirs.close()
    with socket.socket(socket.AF_UNIX) as odd:
        odd.bind(f"\0x\n@{name}")
        odd.listen()
        assert not is_heard(address)


def test_what_is_no_socket_is_not_trusted() -> None:
    reading, writing = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    assert not is_trusted(reading)
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(reading)
    os.close(writing)
    assert not is_trusted(reading)


def test_names_are_heard_whole() -> None:
    address = beside(f"tcp://127.0.0.1:{free_ports(1)[0]}")
    with ScriptedBroker(endpoint=f"{address}0"):
        assert is_heard(f"{address}0")
        assert not is_heard(address)
    assert not is_heard(f"{address}0")
    assert not is_heard("ipc:///run/broker")
    assert not is_heard("")
