"""The same robots at openpi's servers, over its WebSocket.

openpi's client knows no deadline: a robot waits for its answer, and one whose answer is late cannot
ask at its next moment, so that wish is lost as well. Robots are dealt out to the servers in turn.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection, connect

from benchmarks.load.kinds import Kind
from benchmarks.load.tally import ANSWERED, SKIPPED, Tally, Wish
from broker.gateway.arrays import encode

_PATIENCE_S = 60.0


def run(
    ports: Sequence[int],
    kinds: Sequence[Kind],
    observation: dict[str, Any],
    warm_s: float,
    seconds: float,
) -> Tally:
    """Connect, ask for `warm_s`, then for `seconds` that are counted."""
    return asyncio.run(_run(ports, kinds, encode(observation), warm_s, seconds))


async def wait_for_servers(ports: Sequence[int]) -> None:
    """Return when all of them accept connections.

    Raises:
        OSError: one does not, after a minute.
    """
    for port in ports:
        (await _connect(port)).transport.abort()


async def _connect(port: int) -> ClientConnection:
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        try:
            line = await connect(
                f"ws://127.0.0.1:{port}", compression=None, max_size=None, ping_interval=None
            )
            await line.recv()  # the metadata, which the server says first
        except OSError:
            if time.monotonic() > give_up:
                raise
            await asyncio.sleep(0.05)
        else:
            return line


async def _run(
    ports: Sequence[int], kinds: Sequence[Kind], message: bytes, warm_s: float, seconds: float
) -> Tally:
    lines = [await _connect(ports[number % len(ports)]) for number in range(len(kinds))]
    dice = random.Random(len(kinds))
    begun = time.monotonic()
    start, end = begun + warm_s, begun + warm_s + seconds
    wishes: list[Wish] = []
    robots = [
        asyncio.create_task(
            _robot(line, kind, message, begun + dice.random() * kind.period_s, end, wishes)
        )
        for line, kind in zip(lines, kinds, strict=True)
    ]
    await asyncio.sleep(end + max(kind.deadline_s for kind in kinds) - time.monotonic())
    for robot in robots:
        robot.cancel()  # whoever still waits would do so in vain
    await asyncio.gather(*robots, return_exceptions=True)
    for line in lines:
        line.transport.abort()
    return Tally(start, end, [w for w in wishes if start <= w.at < end], len(kinds))


async def _robot(
    line: ClientConnection, kind: Kind, message: bytes, at: float, end: float, wishes: list[Wish]
) -> None:
    while at < end:
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        wish = Wish(at, kind.deadline_s)
        wishes.append(wish)
        await line.send(message)
        await line.recv()
        wish.outcome, wish.ended = ANSWERED, time.monotonic()
        at += kind.period_s
        while at < wish.ended:
            if at < end:
                wishes.append(Wish(at, kind.deadline_s, SKIPPED))
            at += kind.period_s
