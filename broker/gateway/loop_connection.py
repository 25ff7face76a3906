"""A client's connection in an event loop; it awaits what `Connection` waits for with a poll."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial

import zmq

from client.connection import Connection
from client.keys import Key
from client.wire import receive, send

_EVENTS = int(zmq.EVENTS)


class LoopConnection(Connection):
    """A REQ socket whose events wake the loop that made it; use it in that loop's thread only.

    A ZeroMQ socket's file descriptor stays readable until the socket is asked for its events
    (zmq_getsockopt, ZMQ_FD). So it is asked each time, or the loop would spin.
    """

    def __init__(self, endpoint: str, key: Key | None = None) -> None:
        """Begin to connect.

        Raises:
            BrokerUnreachable: the endpoint is not an address, or ZeroMQ cannot open a socket.
        """
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._is_lost = False  # what the monitor told while nobody waited
        self._descriptors: list[int] = []
        super().__init__(endpoint, key)

    async def send_soon(
        self, frames: Sequence[bytes | memoryview], until: float, is_only: bool = True
    ) -> bool:
        """`send`, without blocking the loop."""
        while True:
            socket = self._socket or self._open()
            if self._read_monitor():
                self.drop()  # it may have half of an older message
                if not is_only:
                    return False
            elif not is_only and self._peer.is_away:
                return False
            elif self._peer.has_hung_up and not self._is_over(until):
                self.drop()
                await asyncio.sleep(self._peer.pause_s())
            elif self._peer.is_connected and _is_sent(socket, frames):
                self.is_severed = False
                return True
            elif self._is_over(until):
                return False
            else:
                await self._wait(until)

    async def receive_soon(self, until: float) -> list[zmq.Frame] | None:
        """`receive`, without blocking the loop."""
        while self._socket is not None:
            frames = receive(self._socket)
            if frames is not None:
                return frames
            if self._read_monitor() or self._is_over(until):
                # It may have come before the connection was lost.
                return None if self._socket is None else receive(self._socket)
            await self._wait(until)
        return None

    async def pause_until(self, until: float) -> None:
        """`pause`, without blocking the loop."""
        while not (self.is_interrupted or time.monotonic() >= until):
            await self._wait(until)

    def interrupt(self) -> None:
        """End any waiting, now and later."""
        super().interrupt()
        self._news.set()

    def drop(self) -> None:
        """Close the socket and forget what it was waiting for; the next `send` opens a new one."""
        for descriptor in self._descriptors:  # while it is still ours
            self._loop.remove_reader(descriptor)
        self._descriptors.clear()
        super().drop()

    def _open(self) -> zmq.Socket[bytes]:
        opened = super()._open()
        self._is_lost = False
        for socket in (opened, self._monitor):
            if socket is not None:
                descriptor = int(socket.getsockopt(zmq.FD))
                self._descriptors.append(descriptor)
                self._loop.add_reader(descriptor, partial(self._heard, socket))
                self._heard(socket)  # what was said before is announced no more
        return opened

    def _heard(self, socket: zmq.Socket[bytes]) -> None:
        socket.getsockopt(_EVENTS)
        if socket is self._monitor:
            # Also while no robot asks: libzmq stops for all sockets of this process when a monitor
            # holds 2,000 events, which it does some minutes after a broker has gone.
            self._is_lost = super()._read_monitor() or self._is_lost
        self._news.set()

    def _read_monitor(self) -> bool:
        lost, self._is_lost = super()._read_monitor() or self._is_lost, False
        return lost

    def _is_over(self, until: float) -> bool:
        return self.is_interrupted or self.is_forbidden or time.monotonic() >= until

    async def _wait(self, until: float) -> None:
        """Wait for news, but not beyond `until`, which is in the loop's own time."""
        self._news.clear()
        alarm = self._loop.call_at(until, self._news.set)
        try:
            await self._news.wait()
        finally:
            alarm.cancel()


def _is_sent(socket: zmq.Socket[bytes], frames: Sequence[bytes | memoryview]) -> bool:
    try:
        send(socket, frames)
    except zmq.Again:
        return False
    return True
