"""vla-eval's WebSocket, protocol 1: every frame is `{type, payload, seq, timestamp}`.

    type                 answer
    hello                hello
    observation          action {actions: (D,)} with the observation's seq, or error {error}
    episode_start, _end  none; each begins a new episode

An answer of the policy is handed out one action for each observation, `chunk` of them before it is
asked again. Images come as PNG or JPEG. `/health` and `/config` are answered to plain GETs.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import numpy as np
from PIL import Image, UnidentifiedImageError
from websockets.asyncio.server import ServerConnection

from broker.gateway import arrays
from broker.gateway.access import Identity
from broker.gateway.config import VlaEvalSettings
from broker.gateway.gateway import Gateway
from broker.gateway.mapping import Mapping, flatten
from broker.gateway.sessions import RobotSession
from broker.gateway.websocket import HEALTH, closing_with, one_line, send, serve_websocket
from client import errors

NAME = "vla_eval"
_PROTOCOL = 1
_DEEPEST = 16  # maps and lists inside each other
_MOST_PIXELS = 2**24  # of all images of a message; a small file could say that it is huge

_BAD_IMAGE = (
    UnidentifiedImageError,
    Image.DecompressionBombError,
    OSError,
    ValueError,
    SyntaxError,
)


@asynccontextmanager
async def listen(gateway: Gateway, settings: VlaEvalSettings) -> AsyncIterator[None]:
    """Serve vla-eval's harness.

    Raises:
        OSError: the address cannot be bound.
    """

    async def talk(connection: ServerConnection, identity: Identity) -> None:
        mapping = gateway.mapping(identity, NAME)
        async with (
            gateway.open_robot(identity, NAME) as robot,
            closing_with(robot, connection),
        ):
            conversation = _Conversation(robot, mapping, settings.chunk)
            async for message in connection:
                gateway.metrics.received(NAME, len(message))
                answer = await conversation.answer(message)
                if answer is not None:
                    await send(gateway, NAME, connection, answer)

    config = json.dumps({"model_server": "zmq-policy-broker", "chunk": settings.chunk})
    pages = {
        **HEALTH,
        "/health": lambda: ("application/json", '{"status": "ok"}\n'),
        "/config": lambda: ("application/json", f"{config}\n"),
    }
    async with serve_websocket(gateway, NAME, settings, talk, pages=pages):
        yield


class _Conversation:
    """One connection's messages and answers, and the actions that are still to be handed out."""

    def __init__(self, robot: RobotSession, mapping: Mapping, chunk: int) -> None:
        self._robot, self._mapping, self._chunk = robot, mapping, chunk
        self._left: list[np.ndarray[Any, Any]] = []

    async def answer(self, message: str | bytes) -> bytes | None:
        """The answer to a message, if it has one."""
        seq = 0
        try:
            kind, payload, seq = parse(message)
            if kind == "hello":
                told = {
                    "harness_version": payload.get("harness_version", ""),
                    "protocol_version": _PROTOCOL,
                    "model_server": "zmq-policy-broker",
                    "capabilities": {},
                }
                return _frame("hello", told, seq)
            if kind == "observation":
                return _frame("action", {"actions": await self._act(payload)}, seq)
            if kind in ("episode_start", "episode_end"):
                self._left = []
                await self._robot.reset()
            return None
        except errors.ClientClosed:
            raise
        except errors.PolicyError as error:
            return _frame("error", {"error": one_line(error)}, seq)

    async def _act(self, payload: dict[Any, Any]) -> np.ndarray[Any, Any]:
        if not self._left:
            theirs = await asyncio.to_thread(with_images, payload)
            seed = theirs.pop("seed", None)
            is_mapped = bool(self._mapping.observation)
            ours = self._mapping.to_ours(flatten(theirs) if is_mapped else theirs)
            result = await self._robot.infer(ours, seed=seed)
            self._left = list(np.asarray(result["actions"], np.float32)[: self._chunk])
        return self._left.pop(0)


def parse(message: str | bytes) -> tuple[str, dict[Any, Any], int]:
    """A frame's type, payload and sequence number.

    Raises:
        ProtocolError: it is no such frame.
        VersionMismatch: it is of another version of the protocol.
    """
    if isinstance(message, str):
        raise errors.ProtocolError("a text came: frames are binary, of msgpack")
    found = arrays.decode(message)
    if not isinstance(found, dict):
        raise errors.ProtocolError(f"a {type(found).__name__} came: a msgpack map is expected")
    kind, payload, seq = found.get("type"), found.get("payload"), found.get("seq")
    if kind not in ("hello", "observation", "episode_start", "episode_end", "error"):
        raise errors.ProtocolError(f"type {kind!r:.40} is unknown")
    if not isinstance(payload, dict) or type(seq) is not int:
        raise errors.ProtocolError("a frame is {type, payload: a map, seq: a number, timestamp}")
    version = payload.get("protocol_version", _PROTOCOL)
    if kind == "hello" and version != _PROTOCOL:
        raise errors.VersionMismatch(
            f"protocol_version {version!r:.20} is not spoken here: {_PROTOCOL} is"
        )
    return kind, payload, seq


def with_images(payload: dict[Any, Any]) -> dict[Any, Any]:
    """The payload with its PNG and JPEG images as uint8 (H, W, channels).

    Raises:
        ProtocolError: an image is none, is too large, or maps are nested too deeply.
    """
    found: dict[Any, Any] = _decoded(payload, 0, [_MOST_PIXELS])
    return found


def _decoded(tree: Any, depth: int, left: list[int]) -> Any:
    if depth > _DEEPEST:
        raise errors.ProtocolError(f"maps and lists are nested deeper than {_DEEPEST}")
    if isinstance(tree, dict) and tree.get("__image__") and depth:
        return _image(tree, left)
    if isinstance(tree, dict):
        return {key: _decoded(value, depth + 1, left) for key, value in tree.items()}
    return tree


def _image(found: dict[Any, Any], left: list[int]) -> np.ndarray[Any, Any]:
    form, data = found.get("format"), found.get("data")
    if form == "raw":
        return arrays.array(data, found.get("dtype"), found.get("shape"))
    if form not in ("png", "jpeg") or not isinstance(data, bytes):
        raise errors.ProtocolError(f"an image of the format {form!r:.20}: png, jpeg or raw")
    try:
        with Image.open(io.BytesIO(data), formats=[form]) as image:
            left[0] -= image.width * image.height
            if left[0] < 0:
                raise errors.ProtocolError(f"images of more than {_MOST_PIXELS} pixels came")
            pixels = np.asarray(image)
    except _BAD_IMAGE as error:
        raise errors.ProtocolError(f"an image is no {form}: {error!s:.80}") from error
    shape = found.get("shape")
    if isinstance(shape, list) and len(shape) == 3 and shape[2] == 1 and pixels.ndim == 2:
        pixels = pixels[..., None]
    return pixels


def _frame(kind: str, payload: dict[str, Any], seq: int) -> bytes:
    whole = {"type": kind, "payload": payload, "seq": seq, "timestamp": time.time()}
    packed: bytes = msgpack.packb(whole, default=_plain_array)
    return packed


def _plain_array(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{type(value).__name__} has no form there")
    # With keys of text: its client looks for no others.
    form = {"data": value.tobytes(), "dtype": value.dtype.str, "shape": list(value.shape)}
    return {"__ndarray__": True, **form}
