"""SGLang's action API: `POST /v1/actions/generations` and `GET /v1/actions/metadata`.

A request is a map in JSON, or in msgpack with openpi's arrays where its Content-Type says so:

    input        {task or prompt, observation, images, state}; without it, the observation itself
    observation  images {name: image}, state; or `observation.images.NAME` and `observation.state`
    parameters   {seed}; num_inference_steps and the rest are the worker's to set, and ignored
    runtime      {response_format: "envelope" (default) or "raw", output_format: "list" or "numpy"}

In JSON an image is a list of rows of pixels, or `{b64_json or base64}` of a PNG, JPEG or WebP file;
an array is a list, or `{values or data, dtype, shape}`. An error is `{"detail": text}` with the
status 400, 401, 413, 503 (try again), 504 (not in time) or 500.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from broker.gateway import arrays
from broker.gateway.config import SglangSettings, host_and_port
from broker.gateway.gateway import Gateway
from broker.gateway.http_requests import read_body, unless_it_leaves
from broker.gateway.http_server import serve_app
from broker.gateway.mapping import flatten
from broker.gateway.peers import Peers
from broker.gateway.sglang_values import observation_of
from broker.gateway.websocket import one_line
from client import errors

logger = logging.getLogger("gateway")

NAME = "sglang"
_MSGPACK = "application/msgpack"
_MOST_BRACKETS = 1_000_000  # of maps and lists: an image of 224 x 224 pixels has 50,000
_STATUS: tuple[tuple[type[errors.PolicyError], int], ...] = (
    (errors.Forbidden, 401),
    (errors.MessageTooLarge, 413),
    (errors.BadRequest, 400),
    (errors.DeadlineExceeded, 504),
    (errors.Unavailable, 503),
)


@asynccontextmanager
async def listen(gateway: Gateway, settings: SglangSettings) -> AsyncIterator[None]:
    """Serve the clients of SGLang's action API.

    Raises:
        OSError: the address cannot be bound.
    """
    host, port = host_and_port(f"{NAME}.listen", settings.listen or "")
    async with Peers(gateway, NAME, settings.idle_s) as peers:
        acting = _Actions(gateway, peers)

        async def health(_: Request) -> Response:
            return PlainTextResponse("OK\n")

        routes = [
            Route("/v1/actions/generations", acting.generate, methods=["POST"]),
            Route("/v1/actions/metadata", acting.metadata),
            Route("/health", health),
            Route("/healthz", health),
        ]
        async with serve_app(Starlette(routes=routes), host, port):
            yield


class _Actions:
    """The two endpoints."""

    def __init__(self, gateway: Gateway, peers: Peers) -> None:
        self._gateway, self._peers = gateway, peers

    async def generate(self, request: Request) -> Response:
        """A chunk of actions, or an error."""
        return await self._answer(request, self._generated)

    async def metadata(self, request: Request) -> Response:
        """What the policy answers with, in SGLang's form, and its own metadata."""
        return await self._answer(request, self._described)

    async def _answer(self, request: Request, work: Any) -> Response:
        try:
            content, kind = await work(request)
        except (errors.ClientClosed, ClientDisconnect):
            return _error(503, "the gateway stops")
        except errors.PolicyError as error:
            self._gateway.metrics.refused(NAME, error.code())
            status = next((code for cls, code in _STATUS if isinstance(error, cls)), 500)
            return _error(status, one_line(error))
        except Exception:
            logger.exception("%s: a bug ended a request: please report it", NAME)
            return _error(500, "internal error, see the gateway's log")
        self._gateway.metrics.sent(NAME, len(content))
        return Response(content, media_type=kind)

    async def _generated(self, request: Request) -> tuple[bytes, str]:
        identity = self._gateway.keys.identify_header(request.headers.get("authorization"))
        came = request.headers.get("content-type", "").lower()
        wants_msgpack = "msgpack" in came or "msgpack" in request.headers.get("accept", "").lower()
        body = await read_body(request, self._gateway.config.max_bytes, times=4)
        self._gateway.metrics.received(NAME, len(body))
        asked = await asyncio.to_thread(_read, body, "msgpack" in came)
        theirs, seed = await asyncio.to_thread(observation_of, asked)
        form = _response_format(asked)
        mapping = self._gateway.mapping(identity, NAME)
        ours = mapping.to_ours(flatten(theirs)) if mapping.observation else theirs
        host = request.client.host if request.client is not None else ""
        async with self._peers.use_free((identity, host), identity) as robot:
            result = await unless_it_leaves(request, robot.infer(ours, seed=seed))
        actions = np.asarray(result["actions"], np.float32)
        values = actions if wants_msgpack else actions.tolist()
        if form == "raw":
            answer = {"request_id": _id(asked), "actions": values}
        else:
            answer = _envelope(_id(asked), robot.policy or "", actions.shape, values)
            answer["timings"] = {"total_ms": result["client_timing"]["total_ms"]}
        if wants_msgpack:
            return arrays.encode(answer), _MSGPACK
        return json.dumps(answer).encode(), "application/json"

    async def _described(self, request: Request) -> tuple[bytes, str]:
        identity = self._gateway.keys.identify_header(request.headers.get("authorization"))
        host = request.client.host if request.client is not None else ""
        async with self._peers.use_free((identity, host), identity) as robot:
            told = await robot.metadata()
        answer = {
            "object": "action.metadata",
            "model": told.get("env", told.get("model", "")),
            "policy_family": str(told.get("model", "")),
            "output": {
                "action_type": "continuous",
                "action_horizon": told.get("action_horizon"),
                "action_dim": told.get("action_dim"),
                "dtype": "float32",
            },
            "capabilities": {"batch_inputs": False, "multiple_candidates": False},
            "policy": told,
        }
        return json.dumps(answer, default=str).encode(), "application/json"


def _read(body: bytes, is_msgpack: bool) -> dict[str, Any]:
    if is_msgpack:
        found = arrays.decode(body)
    else:
        if body.count(b"{") + body.count(b"[") > _MOST_BRACKETS:
            raise errors.ProtocolError("JSON with so many lists is refused: send images as files")
        try:
            found = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise errors.ProtocolError(f"the request is not JSON: {error!s:.80}") from error
    if not isinstance(found, dict):
        raise errors.ProtocolError("a map with `input` is expected, or an observation")
    return found


def _response_format(asked: dict[str, Any]) -> str:
    runtime = asked.get("runtime") or {}
    form = runtime.get("response_format", "envelope") if isinstance(runtime, dict) else None
    if form not in ("envelope", "raw"):
        raise errors.ProtocolError("runtime.response_format must be 'envelope' or 'raw'")
    return str(form)


def _id(asked: dict[str, Any]) -> str:
    given = asked.get("request_id") or asked.get("id")
    return given[:128] if isinstance(given, str) else f"act_{uuid.uuid4().hex}"


def _envelope(id: str, model: str, shape: tuple[int, ...], values: Any) -> dict[str, Any]:
    action = {"type": "continuous", "dtype": "float32", "shape": list(shape), "values": values}
    return {
        "id": id,
        "object": "action.generation",
        "created": int(time.time()),
        "model": model,
        "data": [{"index": 0, "input_index": 0, "candidate_index": 0, "action": action}],
        "usage": {"batch_size": 1, "action_horizon": shape[0], "action_dim": shape[-1]},
    }


def _error(status: int, line: str) -> Response:
    return Response(json.dumps({"detail": line}), status, media_type="application/json")
