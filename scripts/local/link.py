"""A TCP proxy that fails as it is told: it delays, cuts, halves or freezes connections.

Stands between robots and broker, or between a worker and the broker, in tests of what a network
may do. It knows nothing of ZeroMQ, just like a network.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable
from types import TracebackType

_CHUNK = 64 * 1024
_SUBSTANTIAL = 200  # bytes; what is smaller is a heartbeat, and halving it would prove little
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for 0 s: close() sends RST


class Network(threading.Thread):
    """The thread that all links run on. A context: leaving it closes them."""

    def __init__(self) -> None:
        super().__init__(name="network", daemon=True)
        self.loop = asyncio.new_event_loop()
        self._links: list[Link] = []

    def link(self, target: int) -> Link:
        """A link from a port of its own to the loopback port `target`."""
        link = Link(self, target)
        asyncio.run_coroutine_threadsafe(link.listen(), self.loop).result()
        self._links.append(link)
        return link

    def run(self) -> None:
        """Until the context is left."""
        self.loop.run_forever()
        self.loop.close()

    def __enter__(self) -> Network:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.join()

    async def _close(self) -> None:
        for link in self._links:
            link.close()
        carrying = asyncio.all_tasks() - {asyncio.current_task()}
        if carrying:
            await asyncio.wait(carrying)


class Link:
    """One listening port whose connections are carried to another. Made by `Network.link`.

    Its methods may be called from any thread. What they do holds for every connection on it.
    """

    def __init__(self, network: Network, target: int) -> None:
        self._network, self._target = network, target
        self.port = 0
        self._server: asyncio.Server | None = None
        self._delay_s = 0.0
        self._halving = False
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._ends: set[asyncio.StreamWriter] = set()

    def slow(self, delay_s: float = 0.05) -> None:
        """Delay every piece of up to 64 KiB by `delay_s`."""
        self._delay_s = delay_s

    def freeze(self) -> None:
        """Carry nothing, and tell nobody."""
        self._call(self._flowing.clear)

    def heal(self) -> None:
        """Carry everything at once again."""
        self._delay_s, self._halving = 0.0, False
        self._call(self._flowing.set)

    def cut(self) -> None:
        """End all connections as if both sides had closed them (FIN)."""
        self._call(self._cut)

    def reset(self) -> None:
        """End all connections by force (RST)."""
        self._call(self._reset)

    def halve(self) -> None:
        """Carry half of the next message, then end all connections by force."""
        self._halving = True

    async def listen(self) -> None:
        """Open the port; its number is `port`."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def _call(self, function: Callable[[], object]) -> None:
        self._network.loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """Stop listening and end all connections. For the network's own thread."""
        if self._server is not None:
            self._server.close()
        self.heal()
        self._reset()

    def _cut(self) -> None:
        for end in list(self._ends):
            end.close()

    def _reset(self) -> None:
        for end in list(self._ends):
            if not end.is_closing():
                line = end.get_extra_info("socket")
                line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = {writer}
        self._ends |= ends
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            ends.add(far_writer)
            self._ends |= ends
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, far_writer))
                both.create_task(self._pump(far_reader, writer))
        except* (OSError, EOFError):
            pass  # one side is gone, so the other has to go too
        finally:
            self._ends -= ends
            for end in ends:
                end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK):
            if self._delay_s:
                await asyncio.sleep(self._delay_s)
            await self._flowing.wait()
            if self._halving and len(data) >= _SUBSTANTIAL:
                self._halving = False
                writer.write(data[: len(data) // 2])
                await asyncio.sleep(0)
                self._reset()
                return
            writer.write(data)
            await writer.drain()
        raise EOFError
