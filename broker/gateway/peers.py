"""Robots of clients that come without a connection of their own: nobody says when they leave."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Hashable
from dataclasses import dataclass

from broker.gateway.access import Identity
from broker.gateway.gateway import Gateway
from broker.gateway.sessions import RobotSession


@dataclass
class _Peer:
    robot: RobotSession
    uses: int = 0
    seen_at: float = 0.0


class Peers:
    """One robot for each key, such as a routing id; those that nobody uses for a while are ended.

    An asynchronous context manager, at whose end all robots are.
    """

    def __init__(self, gateway: Gateway, dialect: str, idle_s: float) -> None:
        """`idle_s`: seconds without use after which a robot is ended."""
        self._gateway, self._dialect, self._idle_s = gateway, dialect, idle_s
        self._peers: dict[Hashable, _Peer] = {}
        self._sweeping: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def use(self, key: Hashable, identity: Identity) -> AsyncIterator[RobotSession]:
        """The robot of a key, opened if it is new; it is not ended while it is used.

        Raises:
            Forbidden: its key is not for that policy.
            Overloaded: there are as many robots as may be.
        """
        peer = self._peers.get(key)
        if peer is None:
            peer = _Peer(self._gateway.open_robot(identity, self._dialect))
            self._peers[key] = peer
        peer.uses += 1
        try:
            yield peer.robot
        finally:
            peer.uses -= 1
            peer.seen_at = time.monotonic()

    @contextlib.asynccontextmanager
    async def use_free(self, key: Hashable, identity: Identity) -> AsyncIterator[RobotSession]:
        """A robot of a key that nobody else uses now: as many are opened as are used at once.

        Raises:
            Forbidden: its key is not for that policy.
            Overloaded: there are as many robots as may be.
        """
        number = 0
        while (peer := self._peers.get((key, number))) is not None and peer.uses:
            number += 1
        async with self.use((key, number), identity) as robot:
            yield robot

    def end(self, key: Hashable) -> None:
        """End a key's robot; a call that is under way raises `ClientClosed`."""
        peer = self._peers.pop(key, None)
        if peer is not None:
            peer.robot.close()

    async def __aenter__(self) -> Peers:
        self._sweeping = asyncio.create_task(self._sweep())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        for key in list(self._peers):
            self.end(key)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._idle_s / 4)
            oldest = time.monotonic() - self._idle_s
            for key, peer in list(self._peers.items()):
                if not peer.uses and peer.seen_at < oldest:
                    self.end(key)
