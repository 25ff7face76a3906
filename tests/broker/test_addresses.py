"""A broker that listens at several addresses, in the network and in the file system."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from broker.config import BrokerConfig, addresses, nearby_address
from broker.doors import CannotBind
from broker.shell import Shell
from client import ZmqPolicyClient
from client.wire import TO_WORKER, decode_header, encode_header
from scripts.local.processes import free_ports
from tests.broker.scenario import Scenario

WAIT_MS = 30_000


@contextlib.contextmanager
def broker(frontend: str, backend: str) -> Iterator[Shell]:
    shell = Shell(BrokerConfig(frontend=frontend, backend=backend))
    running = threading.Thread(target=shell.run, daemon=True)
    running.start()
    try:
        yield shell
    finally:
        shell.stop("the test is over")
        running.join(30.0)
        assert not running.is_alive()


@pytest.fixture
def ports() -> list[str]:
    return [f"tcp://127.0.0.1:{port}" for port in free_ports(3)]


def welcome(endpoint: str) -> dict[str, object]:
    """What a worker that comes to this address is told."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as worker:
        worker.linger = 0
        worker.connect(endpoint)
        hello = {"v": 1, "kind": "hello", "policy": "p", "incarnation": bytes(16)}
        worker.send_multipart([encode_header(hello), b"\x80"])
        assert worker.poll(WAIT_MS)
        return decode_header(worker.recv_multipart()[0], TO_WORKER)


def test_several_addresses_in_one_setting() -> None:
    assert addresses("tcp://127.0.0.1:1, ipc:///a ,,ipc://@b") == [
        "tcp://127.0.0.1:1",
        "ipc:///a",
        "ipc://@b",
    ]


@pytest.mark.parametrize(
    ("frontend", "complaint"),
    [
        ("", "frontend is ''"),
        (",", "frontend is ''"),
        ("tcp://127.0.0.1:8000,127.0.0.1:9000", "frontend is '127.0.0.1:9000'"),
        ("tcp://127.0.0.1:8000,tcp://127.0.0.1:0", "a port from 1 to 65535"),
        ("ipc:///a,tcp://0.0.0.0:8000", "tcp://0.0.0.0:8000 is open to other machines"),
        ("ipc:///a,tcp://127.0.0.1:8001", "are the same, tcp://127.0.0.1:8001"),
    ],
)
def test_each_address_is_checked(frontend: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        BrokerConfig(frontend=frontend).check()


def test_sound_addresses_pass() -> None:
    BrokerConfig(
        frontend="tcp://127.0.0.1:8000,ipc:///a", backend="ipc://@b,tcp://[::1]:8001"
    ).check()


def test_robots_and_workers_at_every_address(ports: list[str], tmp_path: Path) -> None:
    front, back = f"ipc://{tmp_path}/front", f"ipc://{tmp_path}/back"
    with broker(f"{ports[0]},{front},{ports[2]}", f"{ports[1]},{back}"):
        for address in (ports[0], front, ports[2]):
            with ZmqPolicyClient(address, connect_timeout_s=30.0) as client:
                assert client.server_info["version"]
        for address in (ports[1], back):
            assert welcome(address)["kind"] == "welcome"


def test_a_worker_is_told_of_a_nearer_address(ports: list[str]) -> None:
    with broker(ports[0], ports[1]):
        told = welcome(ports[1])
        assert welcome(str(told["ipc"])) == told


def test_the_nearer_address_is_that_life_of_the_brokers_alone() -> None:
    story = Scenario()
    story.hello("w1")
    assert story.told["w1"][-1]["ipc"] == nearby_address(story.epoch)
    assert nearby_address(story.epoch) != nearby_address(story.epoch + 1)


def test_a_socket_file_of_a_living_broker_is_not_taken_away(
    ports: list[str], tmp_path: Path
) -> None:
    front = f"ipc://{tmp_path}/front"
    with broker(front, ports[1]):
        with pytest.raises(CannotBind, match="in use"):
            Shell(BrokerConfig(frontend=front, backend=ports[2]))
        with ZmqPolicyClient(front, connect_timeout_s=30.0) as client:
            client.ping()


def test_a_socket_file_that_a_killed_broker_left_is_replaced(
    ports: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "front"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(os.fspath(path))
        left_behind.listen()
    assert path.exists()
    with (
        broker(f"ipc://{path}", ports[1]),
        ZmqPolicyClient(f"ipc://{path}", connect_timeout_s=30.0) as client,
    ):
        client.ping()
