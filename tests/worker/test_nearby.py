"""A worker on its broker's host goes on by a shorter way, and back when that way ends."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import numpy as np
import pytest
import zmq

from client.wire import FROM_WORKER, Header, decode_header, encode_header
from worker import connection
from worker.service import Service

WAIT_MS = 60_000
EPOCH = 11


class Policy:
    """Answers at once."""

    def infer(self, observation: dict[str, object]) -> dict[str, object]:
        """Zeros."""
        return {"actions": np.zeros((5, 2))}


class Door:
    """One address of a broker, spoken for by the test."""

    def __init__(self, address: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.bind(address)
        self.address = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.worker = b""

    def hears(self, kind: str, within_ms: int = WAIT_MS) -> Header | None:
        """The next message of a kind; None if there is none in time."""
        while self._socket.poll(within_ms):
            self.worker, frame, *_ = self._socket.recv_multipart()
            header = decode_header(frame, FROM_WORKER)
            if header["kind"] == kind:
                return header
        return None

    def says(self, kind: str, **fields: object) -> None:
        """Tell the worker something."""
        header = {"v": 1, "kind": kind, "epoch": EPOCH, **fields}
        self._socket.send_multipart([self.worker, encode_header(header)])

    def close(self) -> None:
        """As when its process ends."""
        self._context.destroy(linger=0)


@pytest.fixture
def front() -> Iterator[Door]:
    door = Door("tcp://127.0.0.1:*")
    yield door
    door.close()


@pytest.fixture
def nearer() -> Iterator[Door]:
    door = Door(f"ipc://@test-{uuid.uuid4()}")
    yield door
    door.close()


@pytest.fixture
def service(front: Door) -> Iterator[Service]:
    service = Service(Policy(), name="p", brokers=[front.address], slots=1)
    running = threading.Thread(target=service.run)
    running.start()
    yield service
    service.stop()
    service.stop()
    running.join(60.0)
    assert not running.is_alive()


def welcome(door: Door, nearer: str) -> None:
    assert door.hears("hello")
    door.says("welcome", heartbeat_ms=20, ipc=nearer)


def test_it_says_hello_again_by_the_shorter_way_and_is_ready_there(
    service: Service, front: Door, nearer: Door
) -> None:
    welcome(front, nearer.address)
    by_tcp = front.worker
    welcome(nearer, nearer.address)
    assert nearer.worker == by_tcp  # to the broker it is the same worker
    assert nearer.hears("ready")
    assert nearer.hears("heartbeat")


def test_it_comes_back_when_the_shorter_way_ends_and_takes_the_next_one(
    service: Service, front: Door, nearer: Door
) -> None:
    welcome(front, nearer.address)
    welcome(nearer, nearer.address)
    assert nearer.hears("ready")
    nearer.close()
    assert front.hears("heartbeat")  # of the old epoch: a broker answers it with `who`
    front.says("who")
    other = Door(f"ipc://@test-{uuid.uuid4()}")
    welcome(front, other.address)
    welcome(other, other.address)
    assert other.hears("ready")
    other.close()


def test_an_address_that_is_not_here_is_not_tried(service: Service, front: Door) -> None:
    welcome(front, "ipc://@another-host")
    assert front.hears("ready")


@pytest.mark.parametrize("address", ["ipc:///run/broker", "tcp://10.0.0.1:1", "inproc://x", "@x"])
def test_only_abstract_names_are_tried(service: Service, front: Door, address: str) -> None:
    welcome(front, address)
    assert front.hears("ready")


def test_a_shorter_way_on_which_nobody_speaks_is_left_for_good(
    service: Service,
    front: Door,
    nearer: Door,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(connection, "_PATIENCE_S", 0.0)
    welcome(front, nearer.address)
    while not caplog.text.count("switching to"):
        front.hears("heartbeat", within_ms=10)
    welcome(front, nearer.address)
    assert front.hears("ready")
    assert caplog.text.count("switching to") == 1


def test_a_worker_that_was_given_an_ipc_address_stays_there(nearer: Door) -> None:
    given = Door(f"ipc://@test-{uuid.uuid4()}")
    service = Service(Policy(), name="p", brokers=[given.address], slots=1)
    running = threading.Thread(target=service.run)
    running.start()
    welcome(given, nearer.address)
    assert given.hears("ready")
    service.stop()
    service.stop()
    running.join(60.0)
    given.close()
    assert not running.is_alive()
