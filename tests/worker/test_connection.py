"""A worker's way to a broker, where somebody else is at the address."""

from __future__ import annotations

import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import zmq

from tests.e2e.stack import WAIT_S
from worker.connection import Connection


def close(accepted: socket.socket) -> None:
    accepted.close()


def reset(accepted: socket.socket) -> None:
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    accepted.close()


def answer_as_a_web_server(accepted: socket.socket) -> None:
    accepted.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n" + b" " * 100)
    accepted.close()


@contextmanager
def stranger(port: int, hang_up: Callable[[socket.socket], None]) -> Iterator[list[float]]:
    """Accepts at a port (0: any) and hangs up; yields that port, and then when it accepted."""
    listening = socket.create_server(("127.0.0.1", port))
    times: list[float] = [listening.getsockname()[1]]

    def accept() -> None:
        while True:
            try:
                accepted, _ = listening.accept()
                times.append(time.monotonic())
                hang_up(accepted)
            except ConnectionError:
                continue
            except OSError:  # it is closed
                return

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield times
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


@pytest.mark.parametrize("hang_up", [close, reset, answer_as_a_web_server])
@pytest.mark.parametrize("is_only", [True, False])
def test_a_peer_that_accepts_and_hangs_up_is_asked_less_and_less_often(
    hang_up: Callable[[socket.socket], None], is_only: bool
) -> None:
    # A reset may come before libzmq knows that it was accepted. Then libzmq itself tries again.
    tries = 20 if hang_up is reset else 10
    with stranger(0, hang_up) as times:
        endpoint = f"tcp://127.0.0.1:{times[0]:.0f}"
        connection = Connection(endpoint, uuid.uuid4().bytes, None, is_only=is_only)
        give_up = time.monotonic() + WAIT_S
        try:
            while len(times) <= tries:
                assert time.monotonic() < give_up, "it is asked no more"
                zmq.zmq_poll(connection.watched, 10)
                connection.look(time.monotonic())
        finally:
            connection.close()
    # The pauses of ten tries are 1.3 s. Without them twenty take a third of a second.
    assert times[-1] - times[1] > 0.9
