"""WebSocket servers of dialects: limits, keys, health checks, and connections that are let go.

A long inference ends no connection: pings are answered meanwhile, and a client that is silent is
hung up on only when its host has vanished. What is bounded is the size of a message, how many are
read ahead, and how long an answer may wait to be read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any
from weakref import WeakKeyDictionary

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode
from websockets.http11 import Request, Response
from websockets.typing import Origin

from broker.gateway.access import Identity
from broker.gateway.config import DialectSettings, host_and_port
from broker.gateway.gateway import Gateway
from broker.gateway.sessions import RobotSession
from client import errors

logger = logging.getLogger("gateway")

Talk = Callable[[ServerConnection, Identity], Awaitable[None]]
Page = Callable[[], tuple[str, str]]  # content type, text

PING_S = 20.0
# Data that a host does not acknowledge for so long: it has vanished. Pings see to it that there is
# some. A client that only does not read for a while acknowledges all the same.
_VANISHED_MS = 60_000
_LONGEST_REASON = 120  # bytes; a close frame has room for 123
HEALTH = {"/healthz": lambda: ("text/plain; charset=utf-8", "OK\n")}


@contextlib.asynccontextmanager
async def serve_websocket(
    gateway: Gateway,
    dialect: str,
    settings: DialectSettings,
    talk: Talk,
    pages: Mapping[str, Page] = HEALTH,
) -> AsyncIterator[None]:
    """Serve a dialect's WebSocket where its settings say.

    Args:
        gateway: for keys, limits and metrics.
        dialect: the name of its section.
        settings: that section.
        talk: what happens on one connection, from the handshake on; it may raise `PolicyError`,
            which then closes the connection with its reason.
        pages: what is answered to a plain GET of these paths, without a key.

    Raises:
        OSError: the address cannot be bound.
    """
    config = gateway.config
    host, port = host_and_port(f"{dialect}.listen", settings.listen or "")
    watch = _Watch(gateway, dialect, talk, pages)
    origins: list[Origin | None] = [None, *map(Origin, config.origins)]
    async with serve(
        watch.talk,
        host,
        port,
        origins=origins,
        process_request=watch.admit,
        compression=None,
        max_size=config.max_bytes,
        max_queue=1,
        ping_interval=PING_S,
        ping_timeout=None,
        open_timeout=config.handshake_s,
        close_timeout=1.0,
        server_header=None,
        logger=watch.logger,
    ):
        yield


class _Watch:
    """The handlers of one server."""

    def __init__(
        self, gateway: Gateway, dialect: str, talk: Talk, pages: Mapping[str, Page]
    ) -> None:
        self._gateway, self._dialect, self._talk, self._pages = gateway, dialect, talk, pages
        # A connection may fail between the look at its key and its conversation.
        self._identities: WeakKeyDictionary[ServerConnection, Identity] = WeakKeyDictionary()
        self.logger = _handshake_logger(gateway, dialect)

    def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer plain GETs; check the key of whoever wants a WebSocket."""
        page = self._pages.get(request.path.partition("?")[0])
        is_plain = "websocket" not in request.headers.get("Upgrade", "").lower()
        if page is not None and is_plain:
            return _response(HTTPStatus.OK, *page())
        if is_plain:
            self._gateway.metrics.refused(self._dialect, "not a websocket")
            return _response(
                HTTPStatus.UPGRADE_REQUIRED,
                "text/plain; charset=utf-8",
                f"this is the gateway's WebSocket for {self._dialect} clients; people look at the "
                "page of its http.listen\n",
                Upgrade="websocket",
            )
        try:
            identity = self._gateway.keys.identify_header(request.headers.get("Authorization"))
        except errors.Forbidden as error:
            self._gateway.refuse(self._dialect, peer(connection), error)
            return _response(
                HTTPStatus.UNAUTHORIZED,
                "text/plain; charset=utf-8",
                f"{error}\n",
                **{"WWW-Authenticate": "Api-Key"},
            )
        self._identities[connection] = identity
        return None

    async def talk(self, connection: ServerConnection) -> None:
        """Have the dialect talk; no traceback crosses the wire, whatever ends it."""
        identity = self._identities.pop(connection)
        transport = connection.transport
        with contextlib.suppress(OSError, AttributeError):  # not Linux
            raw: socket.socket = transport.get_extra_info("socket")
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _VANISHED_MS)
        try:
            await self._talk(connection, identity)
        except ConnectionClosed as closed:
            if closed.sent is not None and closed.sent.code == CloseCode.MESSAGE_TOO_BIG:
                self._gateway.metrics.refused(self._dialect, "message_too_large")
        except errors.ClientClosed:
            pass  # it went away, or the gateway stops
        except errors.PolicyError as error:
            self._gateway.refuse(self._dialect, identity.name or peer(connection), error)
            await connection.close(_close_code(error), _reason(error))
        except Exception:
            logger.exception("%s: a bug ended a connection: please report it", self._dialect)
            await connection.close(
                CloseCode.INTERNAL_ERROR, "internal error, see the gateway's log"
            )


async def send(gateway: Gateway, dialect: str, connection: ServerConnection, data: Any) -> None:
    """Send one message; a client that does not read it for `send_s` is hung up on.

    Raises:
        ConnectionClosed: it is gone, or was hung up on.
    """
    try:
        async with asyncio.timeout(gateway.config.send_s):
            await connection.send(data)
    except TimeoutError:
        gateway.metrics.refused(dialect, "does not read")
        logger.warning("%s: %s reads no answers: hung up", dialect, peer(connection))
        connection.transport.abort()
        await connection.wait_closed()
        raise ConnectionClosed(None, None) from None
    gateway.metrics.sent(dialect, len(data))


@contextlib.asynccontextmanager
async def closing_with(robot: RobotSession, connection: ServerConnection) -> AsyncIterator[None]:
    """End what the robot is waiting for as soon as its client hangs up."""

    async def watch() -> None:
        await connection.wait_closed()
        robot.close()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


def one_line(error: errors.PolicyError) -> str:
    """An error as one line of text: its code, and what to do."""
    return f"{error.code()}: {' '.join(str(error).split())}"


def peer(connection: ServerConnection) -> str:
    """The address of a connection's other side, for logs."""
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "a client"


def _response(status: HTTPStatus, kind: str, text: str, **headers: str) -> Response:
    body = text.encode()
    common = {"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"}
    return Response(status.value, status.phrase, Headers({**common, **headers}), body)


def _close_code(error: errors.PolicyError) -> CloseCode:
    if isinstance(error, errors.Forbidden):
        return CloseCode.POLICY_VIOLATION
    is_passing = isinstance(error, (errors.Unavailable, ConnectionError, TimeoutError))
    return CloseCode.TRY_AGAIN_LATER if is_passing else CloseCode.INTERNAL_ERROR


def _reason(error: errors.PolicyError) -> str:
    return one_line(error).encode()[:_LONGEST_REASON].decode(errors="ignore")


class _Handshakes(logging.Handler):
    """Counts what the library tells of bad handshakes; each with a traceback is for nobody."""

    def __init__(self, gateway: Gateway, dialect: str) -> None:
        super().__init__(logging.ERROR)
        self._gateway, self._dialect = gateway, dialect

    def emit(self, record: logging.LogRecord) -> None:
        """Count one."""
        self._gateway.metrics.refused(self._dialect, "handshake")
        logger.info("%s: somebody connected who speaks no WebSocket", self._dialect)


def _handshake_logger(gateway: Gateway, dialect: str) -> logging.Logger:
    found = logging.getLogger(f"gateway.websocket.{dialect}")
    found.propagate = False
    found.handlers = [_Handshakes(gateway, dialect)]
    return found
