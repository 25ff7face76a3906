"""The floor: the same bytes over a TCP connection, into memory that is already there.

A length of 4 bytes, little-endian, then that many bytes; both ways.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable

import numpy as np

from benchmarks.peers.patience import keep_trying
from benchmarks.transport.observations import ACTIONS, Answer, Observation

_LENGTH = struct.Struct("<I")
_LARGEST = 8_000_000


def serve(host: str, port: int) -> None:
    """Answer each connection from a thread of its own."""
    with socket.create_server((host, port), backlog=64) as listener:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received, reply = memoryview(bytearray(_LARGEST)), _framed(ACTIONS.tobytes())
    with connection:
        while _receive(connection, received):
            connection.sendall(reply)


def connect(
    host: str, port: int, timeout_s: float
) -> Callable[[Observation], Callable[[], Answer]]:
    """Wait for the server. Nothing else is bounded."""
    connection = keep_trying(lambda: socket.create_connection((host, port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    received = memoryview(bytearray(ACTIONS.nbytes))

    def prepare(observation: Observation) -> Callable[[], Answer]:
        arrays = (value for value in observation.values() if isinstance(value, np.ndarray))
        request = _framed(b"".join(array.tobytes() for array in arrays))

        def ask() -> Answer:
            connection.sendall(request)
            if not _receive(connection, received):
                raise ConnectionError("the server hung up")
            return {"actions": np.frombuffer(received, np.float32).reshape(ACTIONS.shape)}

        return ask

    return prepare


def _framed(content: bytes) -> bytes:
    return _LENGTH.pack(len(content)) + content


def _receive(connection: socket.socket, into: memoryview) -> bool:
    """Fill `into` with one message; False where the peer hung up instead."""
    length = bytearray(_LENGTH.size)
    return _fill(connection, memoryview(length)) and _fill(
        connection, into[: _LENGTH.unpack(length)[0]]
    )


def _fill(connection: socket.socket, into: memoryview) -> bool:
    while into:
        count = connection.recv_into(into)
        if count == 0:
            return False
        into = into[count:]
    return True
