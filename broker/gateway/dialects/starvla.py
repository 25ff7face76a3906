"""StarVLA's WebSocket: openpi's framing, with a type and a request id in each message.

    message                                       answer
    {type: ping, request_id}                      {status: ok, ok: true, type: ping, request_id}
    {type: infer, request_id, payload}, or flat   the same of type infer, with data: {actions}
    any error                                     {status: error, ok: false, error: {message}}

`payload.examples` is a list of {image, lang, state?}; the actions are (B, T, D), in its order.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from websockets.asyncio.server import ServerConnection

from broker.gateway import arrays
from broker.gateway.access import Identity
from broker.gateway.config import StarvlaSettings
from broker.gateway.gateway import Gateway
from broker.gateway.mapping import Mapping, flatten
from broker.gateway.sessions import RobotSession
from broker.gateway.websocket import closing_with, one_line, send, serve_websocket
from client import errors

NAME = "starvla"
_MOST_EXAMPLES = 64
_MOST_IMAGES = 16


@asynccontextmanager
async def listen(gateway: Gateway, settings: StarvlaSettings) -> AsyncIterator[None]:
    """Serve StarVLA's clients.

    Raises:
        OSError: the address cannot be bound.
    """

    async def talk(connection: ServerConnection, identity: Identity) -> None:
        mapping = gateway.mapping(identity, NAME)
        async with (
            gateway.open_robot(identity, NAME) as robot,
            closing_with(robot, connection),
        ):
            await send(gateway, NAME, connection, arrays.encode(await robot.metadata()))
            async for message in connection:
                gateway.metrics.received(NAME, len(message))
                answer = await _answer(robot, mapping, message)
                await send(gateway, NAME, connection, arrays.encode(answer))

    async with serve_websocket(gateway, NAME, settings, talk):
        yield


async def _answer(robot: RobotSession, mapping: Mapping, message: str | bytes) -> dict[str, Any]:
    kind, request = "infer", None
    try:
        if isinstance(message, str):
            raise errors.ProtocolError("a text came: messages are binary, of msgpack")
        found = arrays.decode(message)
        if not isinstance(found, dict):
            raise errors.ProtocolError(f"a {type(found).__name__} came: a msgpack map is expected")
        kind, request = found.get("type", "infer"), _request_id(found)
        if kind not in ("ping", "infer", "reset"):
            kind, unknown = "infer", kind
            raise errors.ProtocolError(f"type {unknown!r:.40} is unknown: ping, infer or reset")
        answer = {"status": "ok", "ok": True, "type": kind, "request_id": request}
        if kind == "infer":
            answer["data"] = {"actions": await _actions(robot, mapping, found)}
        elif kind == "reset":
            await robot.reset()
        return answer
    except errors.ClientClosed:
        raise
    except errors.PolicyError as error:
        told = {"message": one_line(error)}
        failed = {"status": "error", "ok": False, "type": kind, "request_id": request}
        return {**failed, "error": told}


async def _actions(
    robot: RobotSession, mapping: Mapping, found: dict[Any, Any]
) -> np.ndarray[Any, Any]:
    payload = found.get("payload", found)
    if not isinstance(payload, dict):
        raise errors.BadObservation("payload must be a map with examples")
    chunks = []
    for flat in examples(payload.get("examples")):
        result = await robot.infer(mapping.to_ours(flat), seed=payload.get("seed"))
        chunks.append(np.asarray(result["actions"], np.float32))
    return np.stack(chunks)


def examples(found: Any) -> list[dict[str, Any]]:
    """The examples with flat keys; of a list of images each is `image.` and its place.

    Raises:
        BadObservation: they are none.
    """
    if not isinstance(found, list) or not 0 < len(found) <= _MOST_EXAMPLES:
        raise errors.BadObservation(f"examples must be a list of 1 to {_MOST_EXAMPLES} maps")
    if not all(isinstance(example, dict) for example in found):
        raise errors.BadObservation("an example must be a map {image, lang, state?}")
    return [_flat(example) for example in found]


def _flat(example: dict[Any, Any]) -> dict[str, Any]:
    flat = flatten(example)
    images = flat.get("image")
    if isinstance(images, list):
        del flat["image"]
        flat.update({f"image.{at}": image for at, image in enumerate(images[:_MOST_IMAGES])})
    return flat


def _request_id(found: dict[Any, Any]) -> Any:
    request = found.get("request_id")
    if request is not None and not isinstance(request, (str, int)):
        raise errors.ProtocolError("request_id must be a text or a number")
    return request
