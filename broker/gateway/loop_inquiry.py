"""`client.inquiry` for an event loop: whether the broker in use hangs while another one answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from broker.gateway.loop_connection import LoopConnection
from client.errors import BrokerUnreachable
from client.inquiry import may_take_over, patience_s, question
from client.wire import Header


async def hangs_soon(
    answer: asyncio.Future[Any],
    endpoints: Sequence[str],
    connect: Callable[[str], LoopConnection],
    fields: Header,
    until: float,
) -> bool:
    """Ask all brokers, and return as soon as it is known, or when the awaited `answer` is there.

    Args:
        answer: what is awaited from the broker in use.
        endpoints: that broker's endpoint, and then those of the brokers that could be used instead.
        connect: begins to connect to one.
        fields: what the client writes into every header.
        until: `time.monotonic()` value.
    """
    began = time.monotonic()
    give_up, is_other_there = until, False
    asked: list[LoopConnection] = []
    waiting: set[asyncio.Future[Any]] = {answer}
    try:
        try:
            asked.extend(map(connect, endpoints))
        except BrokerUnreachable:  # this process has no socket left
            return False
        questions = [asyncio.ensure_future(_ask(each, fields, until)) for each in asked]
        waiting.update(questions)
        while (left_s := give_up - time.monotonic()) > 0:
            done, waiting = await asyncio.wait(
                waiting, timeout=left_s, return_when=asyncio.FIRST_COMPLETED
            )
            if answer in done or (questions[0] in done and questions[0].result()):
                return False
            for each in done:
                frames = each.result()
                if frames and not is_other_there and may_take_over(frames, fields.get("policy")):
                    now = time.monotonic()
                    give_up = min(until, 2 * now - began + patience_s(until - began))
                    is_other_there = True
        return is_other_there
    finally:
        for each in waiting - {answer}:
            each.cancel()
        for connection in asked:
            connection.close()


async def _ask(connection: LoopConnection, fields: Header, until: float) -> Any:
    if await connection.send_soon(question(fields), until):
        return await connection.receive_soon(until)
    return None
