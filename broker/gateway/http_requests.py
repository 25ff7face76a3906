"""What dialects of plain HTTP need of a request: a body that is bounded, and who is still there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from client import errors

Answer = TypeVar("Answer")


async def read_body(request: Request, max_bytes: int, times: int) -> bytes:
    """The body, of at most so many times `max_bytes`, as the dialect's form blows arrays up.

    Raises:
        MessageTooLarge: there is more of it; no more than that was read.
    """
    most, parts, size = times * max_bytes, list[bytes](), 0
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise errors.MessageTooLarge(
                f"more than {most} bytes came ({times} times the gateway's max_bytes)"
            )
        parts.append(part)
    return b"".join(parts)


async def unless_it_leaves(request: Request, work: Awaitable[Answer]) -> Answer:
    """The result of some work for a client, which ends when that client hangs up.

    Raises:
        ClientDisconnect: it has.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
