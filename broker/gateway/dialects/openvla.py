"""OpenVLA's `POST /act`: JSON with json_numpy's arrays, `{"__numpy__": base64, dtype, shape}`.

The answer is the array itself, the first action (action dim) or the whole chunk (horizon, action
dim). A request `{"encoded": text}` has its JSON as a text in JSON, and so has its answer. Every
error is the text `error`; its reason is in the header `X-Error`. The status is 200 as its public
server's, but for what has no place in the dialect: keys (401) and sizes (413).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from broker.gateway import arrays
from broker.gateway.config import OpenvlaSettings, host_and_port
from broker.gateway.gateway import Gateway
from broker.gateway.http_requests import read_body, unless_it_leaves
from broker.gateway.http_server import serve_app
from broker.gateway.mapping import flatten
from broker.gateway.peers import Peers
from broker.gateway.websocket import one_line
from client import errors

logger = logging.getLogger("gateway")

NAME = "openvla"
_ENVELOPE = ("unnorm_key", "seed")
_STATUS = {"forbidden": 401, "message_too_large": 413}
_MOST_BRACKETS = 100_000  # of maps and lists; each array has two


@asynccontextmanager
async def listen(gateway: Gateway, settings: OpenvlaSettings) -> AsyncIterator[None]:
    """Serve OpenVLA's clients.

    Raises:
        OSError: the address cannot be bound.
    """
    host, port = host_and_port(f"{NAME}.listen", settings.listen or "")

    async with Peers(gateway, NAME, settings.idle_s) as peers:
        acting = _Act(gateway, settings, peers)

        async def health(_: Request) -> Response:
            return PlainTextResponse("OK\n")

        routes = [Route("/act", acting.respond, methods=["POST"]), Route("/healthz", health)]
        async with serve_app(Starlette(routes=routes), host, port):
            yield


class _Act:
    """The one endpoint."""

    def __init__(self, gateway: Gateway, settings: OpenvlaSettings, peers: Peers) -> None:
        self._gateway, self._settings, self._peers = gateway, settings, peers

    async def respond(self, request: Request) -> Response:
        """An action, or the text `error`."""
        try:
            text = await self._answer(request)
        except (errors.ClientClosed, ClientDisconnect):
            return _error(503, "the gateway stops")
        except errors.PolicyError as error:
            self._gateway.metrics.refused(NAME, error.code())
            return _error(_STATUS.get(error.code(), 200), one_line(error))
        except Exception:
            logger.exception("%s: a bug ended a request: please report it", NAME)
            return _error(200, "internal error, see the gateway's log")
        self._gateway.metrics.sent(NAME, len(text))
        return Response(text, media_type="application/json")

    async def _answer(self, request: Request) -> str:
        identity = self._gateway.keys.identify_header(request.headers.get("authorization"))
        body = await read_body(request, self._gateway.config.max_bytes, times=2)
        self._gateway.metrics.received(NAME, len(body))
        found, is_encoded = await asyncio.to_thread(parse, body)
        seed = found.get("seed")
        theirs = {key: value for key, value in found.items() if key not in _ENVELOPE}
        ours = self._gateway.mapping(identity, NAME).to_ours(flatten(theirs))
        host = request.client.host if request.client is not None else ""
        async with self._peers.use_free((identity, host), identity) as robot:
            result = await unless_it_leaves(request, robot.infer(ours, seed=seed))
        actions = np.asarray(result["actions"])
        text = json.dumps(_form(actions if self._settings.whole_chunk else actions[0]))
        return json.dumps(text) if is_encoded else text


def parse(body: bytes) -> tuple[dict[str, Any], bool]:
    """The request with its arrays, and whether it came as `{"encoded": text}`.

    Raises:
        ProtocolError: it is not JSON of such a request.
    """
    found = _json(body)
    is_encoded = isinstance(found, dict) and set(found) == {"encoded"}
    if is_encoded:
        found = _json(found["encoded"])
    if not isinstance(found, dict):
        raise errors.ProtocolError("a JSON object {image, instruction} is expected")
    return found, is_encoded


def _json(text: Any) -> Any:
    if not isinstance(text, (str, bytes)):
        raise errors.ProtocolError("encoded must be a text of JSON")
    counted = text if isinstance(text, bytes) else text.encode("utf-8", "replace")
    if counted.count(b"{") + counted.count(b"[") > _MOST_BRACKETS:
        raise errors.ProtocolError("JSON with so many objects is refused: send arrays in base64")
    try:
        return json.loads(text, object_hook=_array_of)
    except (ValueError, RecursionError) as error:
        raise errors.ProtocolError(f"the request is not JSON: {error!s:.80}") from error


def _array_of(found: dict[str, Any]) -> Any:
    if "__numpy__" not in found:
        return found
    try:
        data = base64.b64decode(found["__numpy__"], validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise errors.ProtocolError(f"an array's data is not base64: {error!s:.60}") from error
    if not isinstance(found.get("dtype"), str):
        raise errors.ProtocolError("an array's dtype must be a text: numbers only")
    return arrays.array(data, found["dtype"], found.get("shape"))


def _form(array: np.ndarray[Any, Any] | np.generic) -> dict[str, Any]:
    data = base64.b64encode(array.tobytes()).decode("ascii")
    return {"__numpy__": data, "dtype": array.dtype.str, "shape": list(array.shape)}


def _error(status: int, line: str) -> Response:
    header = line.encode("ascii", "replace").decode()[:1000]
    return Response('"error"', status, {"X-Error": header}, "application/json")
