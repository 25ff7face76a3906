"""A broker with keys and workers on loopback, as real processes, and peers good and bad."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from broker.security import Role
from client import ZmqPolicyClient
from client.keys import read_key
from client.wire import RequestId, decode_header, encode_header
from scripts.keys import make
from scripts.local.processes import Process, Processes, free_ports

PATIENCE_S = 30.0
PATIENCE_MS = 30_000

Socket = zmq.Socket[bytes]


def until(holds: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
    """Return once `holds`; AssertionError after `timeout_s`."""
    give_up = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.02)


class Site:
    """Processes on two free ports; `keys` is a folder with the peers that tests made."""

    def __init__(self, processes: Processes, keys: Path | None) -> None:
        self.keys = keys
        self.port, self.back = free_ports(2)
        self._processes = processes

    def make(self, name: str, role: Role, *policies: str) -> Path:
        """Make a key; returns its file."""
        assert self.keys is not None
        return make(self.keys, name, role, policies)

    def key(self, name: str) -> Path | None:
        """The file of a key; None where there are no keys."""
        return None if self.keys is None else self.keys / f"{name}.key"

    def start_broker(self, *settings: str) -> Process:
        """Start the broker and wait until it is ready."""
        keys = [] if self.keys is None else [f"keys={self.keys}"]
        ends = [
            f"frontend=tcp://127.0.0.1:{self.port}",
            f"backend=tcp://127.0.0.1:{self.back}",
        ]
        broker = self._processes.start("broker", "broker", *ends, *keys, *settings)
        broker.wait_ready()
        return broker

    def start_worker(self, name: str, *settings: str, key: Path | None = None) -> Process:
        """Start a worker; it need not be ready."""
        tiny = ["env=aloha_sim", "model=tiny", f"broker=tcp://127.0.0.1:{self.back}"]
        keys = [] if key is None else [f"key={key}"]
        return self._processes.start(f"worker {name}", "worker", *tiny, *keys, *settings)

    @contextmanager
    def client(self, key: Path | None = None, **options: Any) -> Iterator[ZmqPolicyClient]:
        """A client of this broker."""
        given = {"timeout_s": PATIENCE_S, "connect_timeout_s": PATIENCE_S, **options}
        with ZmqPolicyClient("127.0.0.1", self.port, key=key, **given) as client:
            yield client

    @contextmanager
    def raw(self, port: int, key: Path | None = None, identity: bytes = b"") -> Iterator[Socket]:
        """A bare DEALER, for peers that don't keep to the protocol."""
        context: zmq.Context[Socket] = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        if identity:
            socket.setsockopt(zmq.ROUTING_ID, identity)
        if key is not None:
            read_key(key).secure(socket)
        socket.connect(f"tcp://127.0.0.1:{port}")
        try:
            yield socket
        finally:
            context.destroy(linger=0)


def ask(socket: Socket, kind: str, id: RequestId, *payload: bytes, **fields: Any) -> dict[str, Any]:
    """Send one request as a robot and return the header of the answer."""
    header = {"v": 1, "kind": kind, "id": id, **fields}
    socket.send_multipart([b"", encode_header(header), *payload])
    assert socket.poll(PATIENCE_MS), "no answer"
    return decode_header(socket.recv_multipart()[1])
