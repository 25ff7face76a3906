"""openpi's WebSocket, and what vLLM-Omni's and SGLang's clients expect under their own paths.

The server speaks first, with the policy's metadata. Then each binary message is an observation and
is answered with a map of `actions` (horizon, action dim) and timings, or with an error:

    path                            answer                          error
    any other                       a map, timings included         one line of text
    /v1/realtime/robot/openpi       the bare array, or named ones   {"type": "error", "message"}
    /openpi/policy,
    /v1/actions/realtime            as openpi's                     {"error"}, then closed with 1011

Stays open after an error, except where its client expects otherwise: openpi's client does not
reconnect by itself.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from websockets.asyncio.server import ServerConnection
from websockets.frames import CloseCode

from broker.gateway import arrays
from broker.gateway.access import Identity
from broker.gateway.config import OpenpiSettings
from broker.gateway.gateway import Gateway
from broker.gateway.mapping import Mapping, flatten
from broker.gateway.sessions import RobotSession
from broker.gateway.websocket import closing_with, one_line, send, serve_websocket
from client import errors

NAME = "openpi"
OPENPI, VLLM, SGLANG = "openpi", "vllm", "sglang"
PATHS = {
    "/v1/realtime/robot/openpi": VLLM,
    "/openpi/policy": SGLANG,
    "/v1/actions/realtime": SGLANG,
}
# Of an observation, but not of what the policy sees. How many steps a policy takes and in which
# form it answers are not a robot's to choose here.
_ENVELOPE = ("endpoint", "session_id", "sampling_params", "output_format", "seed", "use_rtc")


@asynccontextmanager
async def listen(gateway: Gateway, settings: OpenpiSettings) -> AsyncIterator[None]:
    """Serve openpi's clients.

    Raises:
        OSError: the address cannot be bound.
    """

    async def talk(connection: ServerConnection, identity: Identity) -> None:
        async with (
            gateway.open_robot(identity, NAME) as robot,
            closing_with(robot, connection),
        ):
            path = connection.request.path.partition("?")[0] if connection.request else "/"
            variant = PATHS.get(path, OPENPI)
            conversation = _Conversation(gateway, robot, gateway.mapping(identity, NAME), variant)
            await send(gateway, NAME, connection, arrays.encode(await robot.metadata()))
            async for message in connection:
                gateway.metrics.received(NAME, len(message))
                answer, is_last = await conversation.answer(message)
                await send(gateway, NAME, connection, answer)
                if is_last:
                    await connection.close(CloseCode.INTERNAL_ERROR, "see the message before")

    async with serve_websocket(gateway, NAME, settings, talk):
        yield


@dataclass
class _Request:
    """What one message asks for."""

    observation: dict[str, Any]
    is_reset: bool = False
    session: str | None = None
    seed: int | None = None
    prev_actions: np.ndarray[Any, Any] | None = None
    wants_origin: bool = False  # of the fork with real-time chunking


class _Conversation:
    """One connection's messages and answers."""

    def __init__(
        self, gateway: Gateway, robot: RobotSession, mapping: Mapping, variant: str
    ) -> None:
        self._gateway = gateway
        self._robot, self._mapping, self._variant = robot, mapping, variant
        self._previous_ms: float | None = None
        self._session: str | None = None

    async def answer(self, message: str | bytes) -> tuple[str | bytes, bool]:
        """The answer to a message, and whether it is the connection's last."""
        began = time.monotonic()
        try:
            request = self._parsed(message)
            is_other, self._session = request.session != self._session, request.session
            if request.is_reset or (is_other and self._previous_ms is not None):
                await self._robot.reset()
            if request.is_reset:
                return self._reset_done(), False
            ours = request.observation
            if self._mapping.observation:
                ours = self._mapping.to_ours(flatten(ours))
            options: dict[str, Any] = {}
            if request.prev_actions is not None:
                options["prev_actions"] = request.prev_actions
            result = await self._robot.infer(ours, seed=request.seed, **options)
            packed = self._packed(result, request)
        except errors.ClientClosed:
            raise
        except errors.PolicyError as error:
            return self._refusal(error)
        self._previous_ms = (time.monotonic() - began) * 1e3
        return packed, False

    def _parsed(self, message: str | bytes) -> _Request:
        try:
            return parse(message)
        except errors.PolicyError as error:
            self._gateway.refuse(NAME, self._robot.name, error)
            raise

    def _packed(self, result: dict[str, Any], request: _Request) -> bytes:
        named = self._mapping.to_theirs(result["actions"]) if self._mapping.actions else None
        if self._variant == VLLM:
            return arrays.encode(named if named is not None else result["actions"])
        timing = result["server_timing"]
        timing.setdefault("infer_ms", timing.get("worker_ms", 0.0))
        if self._previous_ms is not None:
            timing["prev_total_ms"] = self._previous_ms
        result.setdefault("policy_timing", {"infer_ms": timing["infer_ms"]})
        result["gateway_timing"] = result.pop("client_timing")
        if request.wants_origin:
            # The fork gives back what it got here, so robot space will do for both ways.
            result["origin_actions"] = result["actions"]
        return arrays.encode({**result, **(named or {})})

    def _reset_done(self) -> str | bytes:
        text = "reset successful"
        return arrays.encode({"status": text}) if self._variant == VLLM else text

    def _refusal(self, error: errors.PolicyError) -> tuple[str | bytes, bool]:
        text = one_line(error)
        if self._variant == VLLM:
            return arrays.encode({"type": "error", "message": text}), False
        if self._variant == SGLANG:
            return arrays.encode({"error": text}), True
        return text, False


def parse(message: str | bytes) -> _Request:
    """What a message asks for.

    Raises:
        ProtocolError: it is no binary message of a msgpack map.
        BadObservation: an option in it has a wrong type.
    """
    if isinstance(message, str):
        raise errors.ProtocolError("a text came: observations are binary messages of msgpack")
    found = arrays.decode(message)
    if not isinstance(found, dict):
        raise errors.ProtocolError(f"a {type(found).__name__} came: a msgpack map is expected")
    endpoint = found.get("endpoint", "infer")
    if endpoint not in ("infer", "reset"):
        raise errors.ProtocolError(f"endpoint {endpoint!r:.40} is unknown: infer or reset")
    session = found.get("session_id")
    if session is not None and not isinstance(session, str):
        raise errors.BadObservation(f"session_id is {session!r:.40}: a text is expected")
    if endpoint == "reset":
        return _Request({}, is_reset=True, session=session)
    if "prev_action" in found and isinstance(found.get("obs"), dict):
        previous = found["prev_action"] if found.get("use_rtc") else None
        if previous is not None and not isinstance(previous, np.ndarray):
            raise errors.BadObservation("prev_action must be an array (rows, action dim) or null")
        request = _Request(found["obs"], prev_actions=previous, wants_origin=True)
    else:
        request = _Request(found)
    sampling = request.observation.get("sampling_params")
    seed = request.observation.get("seed")
    if seed is None and isinstance(sampling, dict):
        seed = sampling.get("seed")
    request.seed, request.session = seed, session
    request.observation = {
        key: value for key, value in request.observation.items() if key not in _ENVELOPE
    }
    return request
