"""The proxy does to a connection what it says, or the chaos proves nothing."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from scripts.local.link import Link, Network


class Line:
    """One TCP connection through a link, both ends in hand."""

    def __init__(self) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))

    def connect(self, link: Link) -> None:
        self.near = socket.create_connection(("127.0.0.1", link.port), timeout=10)
        self.far, _ = self.server.accept()
        self.far.settimeout(10)
        self.near.sendall(b"?")  # once it has come through, the link knows both ends
        assert self.far.recv(1) == b"?"


@pytest.fixture
def line() -> Iterator[tuple[Line, Link]]:
    line = Line()
    with closing(line.server), Network() as network:
        link = network.link(line.server.getsockname()[1])
        line.connect(link)
        with closing(line.near), closing(line.far):
            yield line, link


def test_it_carries_both_ways(line: tuple[Line, Link]) -> None:
    ends, _ = line
    ends.near.sendall(b"request")
    assert ends.far.recv(100) == b"request"
    ends.far.sendall(b"answer")
    assert ends.near.recv(100) == b"answer"


def test_slow(line: tuple[Line, Link]) -> None:
    ends, link = line
    link.slow(0.2)
    started = time.monotonic()
    ends.near.sendall(b"request")
    assert ends.far.recv(100) == b"request"
    assert time.monotonic() - started >= 0.2


def test_frozen_until_healed(line: tuple[Line, Link]) -> None:
    ends, link = line
    link.freeze()
    time.sleep(0.1)
    ends.near.sendall(b"request")
    ends.far.settimeout(0.2)
    with pytest.raises(TimeoutError):
        ends.far.recv(100)
    link.heal()
    ends.far.settimeout(10)
    assert ends.far.recv(100) == b"request"


def test_cut(line: tuple[Line, Link]) -> None:
    ends, link = line
    link.cut()
    assert ends.near.recv(100) == b""
    assert ends.far.recv(100) == b""


def test_reset(line: tuple[Line, Link]) -> None:
    ends, link = line
    link.reset()
    with pytest.raises(ConnectionResetError):
        ends.near.recv(100)
    with pytest.raises(ConnectionResetError):
        ends.far.recv(100)


def test_halved(line: tuple[Line, Link]) -> None:
    ends, link = line
    link.halve()
    ends.near.sendall(b"small")  # not worth it
    assert ends.far.recv(100) == b"small"
    ends.near.sendall(bytes(1000))
    came = 0
    try:
        while data := ends.far.recv(1000):
            came += len(data)
    except ConnectionResetError:
        pass
    assert came <= 500
    with pytest.raises(ConnectionResetError):
        ends.near.recv(100)


def test_nobody_behind_it_closes_the_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with Network() as network:
        link = network.link(port)
        with socket.create_connection(("127.0.0.1", link.port), timeout=10) as near:
            assert near.recv(100) == b""
