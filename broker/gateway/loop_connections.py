"""Connections to several brokers in an event loop, which `AsyncPolicyClient` uses as one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import zmq

from broker.gateway.loop_connection import LoopConnection
from broker.gateway.loop_inquiry import hangs_soon
from client.connections import Connections
from client.inquiry import first_silence_s
from client.keys import Key
from client.route import Route
from client.wire import Header


class LoopConnections(Connections[LoopConnection]):
    """One `LoopConnection` for each broker, of which the route says which one is in use."""

    async def send_soon(self, frames: Sequence[bytes | memoryview], until: float) -> bool:
        """`send`, without blocking the loop."""
        self._used = used = self._all[self._route.at]
        is_sent = await used.send_soon(frames, until, is_only=False)
        if not is_sent:
            self._warn(used)
        return is_sent

    async def receive_soon(self, until: float) -> list[zmq.Frame] | None:
        """`receive`, without blocking the loop."""
        return await self._used.receive_soon(until)

    async def receive_slow_soon(self, until: float, fields: Header) -> list[zmq.Frame] | None:
        """`receive_slow`, without blocking the loop."""
        used, now = self._used, time.monotonic()
        silence_s = first_silence_s(until - now)
        while True:
            frames = await used.receive_soon(min(until, now + silence_s))
            now = time.monotonic()
            if frames is not None or now >= until or used.is_interrupted or used.is_severed:
                return frames
            if others := self._others():
                answer = asyncio.ensure_future(used.receive_soon(until))
                endpoints = [used.endpoint, *others]
                try:
                    is_hanging = await hangs_soon(
                        answer, endpoints, self._connect_one, fields, until
                    )
                finally:
                    answer.cancel()
                await asyncio.wait({answer})
                if not answer.cancelled():
                    return answer.result()
                if is_hanging:
                    self._warn_of_hanging()
                    return None
            silence_s *= 2.0
            now = time.monotonic()

    async def pause_until(self, until: float) -> None:
        """`pause`, without blocking the loop."""
        await self._used.pause_until(until)


def connect(
    endpoints: Sequence[str], key: Key | None, route: Route
) -> LoopConnection | LoopConnections:
    """Begin to connect to one broker, or to each of several.

    Raises:
        BrokerUnreachable: an endpoint is not an address, or ZeroMQ cannot open a socket.
    """
    if len(endpoints) == 1:
        return LoopConnection(endpoints[0], key)
    return LoopConnections(endpoints, key, route, LoopConnection)
