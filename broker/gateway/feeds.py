"""What each of the gateway's brokers says of itself; which one the page shows if nobody chose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from broker.gateway.feed import Feed
from client import ZmqPolicyClient


class Told(NamedTuple):
    """A broker's last status (`broker.status.report`), and why it is old or empty, if it is."""

    broker: str
    status: Mapping[str, Any]
    trouble: str


class Feeds:
    """One `Feed` for each broker, by its address, in order of preference."""

    def __init__(
        self, connect: Callable[[str, float], ZmqPolicyClient], brokers: Sequence[str]
    ) -> None:
        """`connect` makes a client of a broker, waiting at most so many seconds for it."""
        self.by_broker = {each: Feed(partial(connect, each)) for each in brokers}

    async def told(self) -> list[Told]:
        """What each of them says now, in order."""
        found = await asyncio.gather(*(feed.status() for feed in self.by_broker.values()))
        return [Told(name, *each) for name, each in zip(self.by_broker, found, strict=True)]

    async def run(self) -> None:
        """Keep the histories going while nobody looks."""
        await asyncio.gather(*(feed.run() for feed in self.by_broker.values()))

    def close(self) -> None:
        """End the questions that are under way."""
        for feed in self.by_broker.values():
            feed.close()


def shown(told: Sequence[Told], chosen: str | None = None) -> Told:
    """The one that was chosen; by default the first that answers, or the first where none does."""
    named = [each for each in told if each.broker == chosen]
    return next(iter(named or [each for each in told if not each.trouble]), told[0])
