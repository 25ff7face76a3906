"""What a robot that asks the broker directly sends and gets, from the broker's tap.

The tap is subscribed to while somebody looks at that robot, and for its topics only: while nobody
looks, nothing is subscribed, and the broker tells nothing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any, NamedTuple

import numpy as np
import zmq
import zmq.asyncio

from client.body import decode_body
from client.errors import PolicyError
from client.memory_reader import Mappings
from client.tap import ANSWER, REQUEST, Tapped, decode_tapped, topic

_AHEAD = 16  # messages that libzmq keeps for us; those that come meanwhile are dropped
_LARGEST = 2**28  # bytes of one request in shared memory
_IN_MEMORY = (
    "They lie in memory that the robot shares with workers of its own host and user, and this "
    "gateway cannot read it. With shared_memory=False in its client they would be seen here."
)


class Look(NamedTuple):
    """An observation and the chunk (horizon, action dim) that answered it, None for an error."""

    at: float
    observation: dict[str, Any]
    actions: np.ndarray[Any, Any] | None


def topics_of(status: Mapping[str, Any], id: str) -> list[bytes]:
    """What to subscribe to for a robot of the broker's status; empty if it is not in there."""
    robot = next((each for each in status.get("robots", ()) if each["id"] == id), None)
    if robot is None:
        return []
    served = {each["name"] for each in status["workers"]} | set(status["policies"])
    policies = [robot["policy"]] if robot["policy"] else sorted(served)
    return [topic(policy, robot["name"]) for policy in policies]


async def follow(
    address: str, id: str, topics: list[bytes], every_s: float
) -> AsyncGenerator[tuple[Tapped, Tapped], None]:
    """A robot's requests, each with its answer, at most one in `every_s` seconds.

    What a request left in shared memory is copied as soon as it is heard of. Where the robot was
    faster, the next request is taken; where the memory cannot be read, the payload is empty.
    """
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.SUB)
    try:
        socket.setsockopt(zmq.RCVHWM, _AHEAD)
        for each in topics:
            socket.setsockopt(zmq.SUBSCRIBE, each)
        socket.connect(address)
        asked: Tapped | None = None
        shown_at = float("-inf")
        while True:
            message = decode_tapped(await socket.recv_multipart(copy=False))
            if message.id.client.hex()[:8] != id:
                continue  # another robot of that name
            if message.kind == REQUEST:
                is_due = time.monotonic() - shown_at >= every_s
                asked = _whole(message) if is_due else None
            elif message.kind == ANSWER and asked is not None and asked.id == message.id:
                shown_at = time.monotonic()
                yield asked, message
                asked = None
    finally:
        context.destroy(linger=0)


def look(asked: Tapped, answer: Tapped) -> Look:
    """Both decoded; what cannot be is left out, with a text in its place."""
    observation = _decoded(asked) if asked.payload else {"large arrays": _IN_MEMORY}
    if "code" in answer.fields:
        reason = f"{answer.fields['code']}: {answer.fields.get('message', '')}"
        return Look(answer.at, {**observation, "error": reason}, None)
    actions = _decoded(answer).get("actions")
    return Look(answer.at, observation, actions if isinstance(actions, np.ndarray) else None)


def _whole(asked: Tapped) -> Tapped | None:
    """With copies of what lies in shared memory; None where the robot has written there since."""
    reference = asked.fields.get("memory")
    if reference is None or not asked.payload:
        return asked
    mappings = Mappings(_LARGEST)
    try:
        copies = mappings.snapshot(reference, asked.fields.get("written"))
    except PolicyError:
        return asked._replace(payload=())
    finally:
        mappings.close()
    return None if copies is None else asked._replace(payload=[asked.payload[0], *copies])


def _decoded(message: Tapped) -> dict[str, Any]:
    try:
        return decode_body(message.payload)
    except PolicyError as error:
        return {"not understood": str(error)}
