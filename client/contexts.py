"""The ZeroMQ context that the clients of one process share."""

from __future__ import annotations

import os
import threading

import zmq


class Contexts:
    """The ZeroMQ context of all clients of a process: its I/O thread does for them all.

    A robot's program may end the one that pyzmq shares (`zmq.Context.instance()`), which would
    wait for our sockets for ever, or close them under our hands.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._lock = threading.Lock()

    def get(self) -> zmq.Context[zmq.Socket[bytes]]:
        """This process's; in a fork, another than its parent's."""
        with self._lock:
            if self._context is None or self._pid != os.getpid():  # a fork has no I/O thread
                self._context, self._pid = zmq.Context(), os.getpid()
            return self._context


CONTEXTS = Contexts()
