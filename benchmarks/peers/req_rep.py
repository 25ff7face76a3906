"""Plain pyzmq: REQ and REP, one frame of msgpack with the arrays in msgpack-numpy's form.

That form is written out here, since the package itself unpickles what it receives. The bytes are
the same, and so are the copies made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import zmq

from benchmarks.transport.observations import ACTIONS, Answer, Observation


def serve(host: str, port: int) -> None:
    """Answer one request after the other."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
    socket.bind(f"tcp://{host}:{port}")
    while True:
        unpack(socket.recv())
        socket.send(pack({"actions": ACTIONS}))


def connect(
    host: str, port: int, timeout_s: float
) -> Callable[[Observation], Callable[[], Answer]]:
    """Connect; ZeroMQ itself waits for the server. Nothing else is bounded."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
    socket.connect(f"tcp://{host}:{port}")

    def prepare(observation: Observation) -> Callable[[], Answer]:
        def ask() -> Answer:
            socket.send(pack(observation))
            return unpack(socket.recv())

        return ask

    return prepare


def pack(tree: dict[str, Any]) -> bytes:
    """What `msgpack.packb(tree, default=msgpack_numpy.encode)` gives."""
    packed: bytes = msgpack.packb(tree, default=_encode)
    return packed


def unpack(packed: bytes) -> dict[str, Any]:
    """The tree; its arrays share memory with msgpack's copies of their bytes."""
    tree: dict[str, Any] = msgpack.unpackb(packed, object_hook=_decode)
    return tree


def _encode(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} cannot be sent")
    return {
        b"nd": True,
        b"type": value.dtype.str,
        b"kind": b"",
        b"shape": value.shape,
        b"data": value.data if value.flags.c_contiguous else value.tobytes(),
    }


def _decode(value: dict[Any, Any]) -> Any:
    if b"nd" not in value:
        return value
    return np.ndarray(value[b"shape"], np.dtype(value[b"type"]), value[b"data"])
