"""The ZeroMQ context that the clients of one process share."""

from __future__ import annotations

import os

import zmq


class Contexts:
    """The ZeroMQ context of all clients of a process: its one I/O thread serves them all.

    The context that pyzmq shares, `zmq.Context.instance()`, would not do. When a robot's program
    ends that one, it would wait for our sockets for ever, or close them while we use them.
    """

    def __init__(self) -> None:
        # No lock: a fork would inherit it locked, and a signal handler would wait for itself.
        self._contexts: dict[int, zmq.Context[zmq.Socket[bytes]]] = {}  # by process

    def get(self) -> zmq.Context[zmq.Socket[bytes]]:
        """The context of this process. A fork, which has no I/O thread, gets one of its own."""
        process = os.getpid()
        context = self._contexts.get(process)
        if context is None:
            made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            context = self._contexts.setdefault(process, made)  # atomic
            if made is not context:
                made.term()  # another thread was faster
        return context


CONTEXTS = Contexts()
