"""The barest form of our design, a yardstick: REQ robot, ROUTER broker, one worker behind it.

Each array is a frame of its own and nothing is copied. There are no checks, no timeouts and no
retries: by how much ours takes longer is the price of what it promises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
import numpy as np
import zmq

from benchmarks.transport.observations import ACTIONS, Answer, Observation

_READY = b"READY"


def broker(host: str, port: int, backend: int) -> None:
    """Give each request to the worker that has been idle for longest."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    robots, workers = context.socket(zmq.ROUTER), context.socket(zmq.ROUTER)
    robots.bind(f"tcp://{host}:{port}")
    workers.bind(f"tcp://{host}:{backend}")
    idle: deque[zmq.Frame] = deque()
    while True:
        # Robots are listened to only while somebody can serve them.
        watched = [(workers, zmq.POLLIN), *([(robots, zmq.POLLIN)] if idle else [])]
        for ready, _ in zmq.zmq_poll(watched, -1):
            socket = workers if ready is workers else robots
            frames: Any = socket.recv_multipart(copy=False)
            if socket is workers:
                idle.append(frames[0])
                if frames[2].bytes != _READY:
                    robots.send_multipart(frames[2:], copy=False)
            else:
                workers.send_multipart([idle.popleft(), b"", *frames], copy=False)


def worker(host: str, port: int, backend: int) -> None:
    """Answer whatever the broker gives, at once."""
    socket: zmq.Socket[bytes] = zmq.Context().socket(zmq.REQ)
    socket.connect(f"tcp://{host}:{backend}")
    socket.send(_READY)
    while True:
        frames: Any = socket.recv_multipart(copy=False)
        unpack([frame.buffer for frame in frames[2:]])
        socket.send_multipart([frames[0].bytes, b"", *pack({"actions": ACTIONS})], copy=False)


def connect(
    host: str, port: int, timeout_s: float
) -> Callable[[Observation], Callable[[], Answer]]:
    """Connect; ZeroMQ itself waits for the broker. Nothing else is bounded."""
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
    socket.connect(f"tcp://{host}:{port}")

    def prepare(observation: Observation) -> Callable[[], Answer]:
        def ask() -> Answer:
            socket.send_multipart(pack(observation), copy=False)
            frames: Any = socket.recv_multipart(copy=False)
            return unpack([frame.buffer for frame in frames])

        return ask

    return prepare


def pack(tree: dict[str, Any]) -> list[Any]:
    """A frame of msgpack, then one for each array, in the order in which they are found."""
    frames: list[Any] = [b""]

    def put_aside(value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{type(value).__name__} cannot be sent")
        frames.append(value)
        return {"frame": len(frames) - 1, "dtype": value.dtype.str, "shape": value.shape}

    frames[0] = msgpack.packb(tree, default=put_aside)
    return frames


def unpack(frames: Sequence[Any]) -> dict[str, Any]:
    """The tree; its arrays lie in the frames."""

    def take_back(value: dict[str, Any]) -> Any:
        if "frame" not in value:
            return value
        return np.frombuffer(frames[value["frame"]], value["dtype"]).reshape(value["shape"])

    tree: dict[str, Any] = msgpack.unpackb(frames[0], object_hook=take_back)
    return tree
