"""LeRobot's asynchronous inference: gRPC `transport.AsyncInference`, with pickles inside.

    Ready                    a new episode
    SendPolicyInstructions   what the robot's observations are made of (RemotePolicyConfig)
    SendObservations         one TimedObservation in pieces; a newer one takes an older one's place
    GetActions               a list of TimedAction, or nothing: not yet, or an error, which the
                             trailing metadata `error` says

The pickles are read by `broker.gateway.pickles` and written here; nothing is unpickled. The other
calls end in a status with one line of text. Where the gateway asks for Api-Keys a client sends the
metadata `authorization`; LeRobot's own has no such setting, so that it may also give
`api-key:KEY` as its `pretrained_name_or_path`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from broker.gateway.access import Identity
from broker.gateway.config import LerobotSettings, host_and_port
from broker.gateway.gateway import Gateway
from broker.gateway.lerobot_messages import chunk_of, dump_actions, field_of, flat_observation
from broker.gateway.peers import Peers
from broker.gateway.pickled_values import Record
from broker.gateway.pickles import loads
from broker.gateway.websocket import one_line
from client import errors

logger = logging.getLogger("gateway")

NAME = "lerobot"
_SERVICE = "transport.AsyncInference"
_PIECE = 4 * 2**20  # bytes; clients send pieces of 2 MB
_BEGIN, _END = 1, 3
_STATUS = (
    (errors.Forbidden, grpc.StatusCode.UNAUTHENTICATED),
    # Clients repeat what is UNAVAILABLE; this they leave alone.
    (errors.Unavailable, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.MessageTooLarge, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (errors.BadRequest, grpc.StatusCode.INVALID_ARGUMENT),
)


@contextlib.asynccontextmanager
async def listen(gateway: Gateway, settings: LerobotSettings) -> AsyncIterator[None]:
    """Serve LeRobot's clients.

    Raises:
        OSError: the address cannot be bound.
    """
    host, port = host_and_port(f"{NAME}.listen", settings.listen or "")
    options = [
        ("grpc.max_receive_message_length", _PIECE),
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", 16),
    ]
    server = grpc.aio.server(options=options, maximum_concurrent_rpcs=4 * gateway.config.max_robots)
    async with Peers(gateway, NAME, settings.idle_s) as peers:
        service = _Service(gateway, settings, peers)
        handlers = {
            "Ready": grpc.unary_unary_rpc_method_handler(service.guarded(service.ready)),
            "SendPolicyInstructions": grpc.unary_unary_rpc_method_handler(
                service.guarded(service.take_instructions)
            ),
            "SendObservations": grpc.stream_unary_rpc_method_handler(
                service.guarded(service.take_observation)
            ),
            "GetActions": grpc.unary_unary_rpc_method_handler(service.actions),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))
        try:
            server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        except RuntimeError as error:
            raise OSError(f"{NAME}.listen={settings.listen}: {error}") from error
        await server.start()
        try:
            yield
        finally:
            await server.stop(grace=None)


@dataclass
class _Client:
    """What is known of one client, by its connection."""

    identity: Identity
    setup: Record | None = None
    waiting: Record | None = None  # the newest observation that was not answered
    came: asyncio.Event = field(default_factory=asyncio.Event)
    last_step: int = -1
    seen_at: float = 0.0


class _Service:
    """The four calls."""

    def __init__(self, gateway: Gateway, settings: LerobotSettings, peers: Peers) -> None:
        self._gateway, self._settings, self._peers = gateway, settings, peers
        self._clients: dict[str, _Client] = {}
        self._setups: dict[str, tuple[Identity, Record]] = {}

    def guarded(self, call: Callable[[Any, Any], Awaitable[None]]) -> Any:
        """A call that answers with `Empty`, or ends in a status with one line of text."""

        async def handle(request: Any, context: Any) -> bytes:
            try:
                await call(request, context)
            except errors.PolicyError as error:
                self._gateway.metrics.refused(NAME, error.code())
                codes = (code for kind, code in _STATUS if isinstance(error, kind))
                await context.abort(next(codes, grpc.StatusCode.INTERNAL), one_line(error))
            except (asyncio.CancelledError, grpc.aio.AbortError):
                raise
            except Exception:
                logger.exception("%s: a bug ended a call: please report it", NAME)
                await context.abort(grpc.StatusCode.INTERNAL, "internal error, see the log")
            return b""

        return handle

    async def ready(self, _: bytes, context: Any) -> None:
        """A client begins."""
        peer = context.peer()
        client = self._clients.get(peer)
        if client is not None:
            client.waiting, client.last_step = None, -1
            async with self._peers.use(peer, client.identity) as robot:
                await robot.reset()

    async def take_instructions(self, request: bytes, context: Any) -> None:
        """What the client's observations are made of, and who it is."""
        self._gateway.metrics.received(NAME, len(request))
        setup = await asyncio.to_thread(loads, field_of(request, 1))
        if not isinstance(setup, Record) or setup.name != "RemotePolicyConfig":
            raise errors.ProtocolError("a pickled RemotePolicyConfig is expected")
        peer = context.peer()
        identity = self._identify(context, setup.fields.get("pretrained_name_or_path"))
        self._peers.end(peer)
        self._forget_old()
        self._clients[peer] = _Client(identity, setup, seen_at=time.monotonic())
        self._setups[_host(peer)] = identity, setup
        async with self._peers.use(peer, identity):
            pass  # refused now rather than at its first observation

    async def take_observation(self, pieces: AsyncIterator[bytes], context: Any) -> None:
        """A new observation, which takes the place of one that still waits."""
        most, parts, size = self._gateway.config.max_bytes, list[bytes](), 0
        client = self._client(context)
        state = None
        async for piece in pieces:
            self._gateway.metrics.received(NAME, len(piece))
            state = field_of(piece, 1, number=True)
            part = field_of(piece, 2)
            size += len(part)
            if size > most:
                raise errors.MessageTooLarge(f"more than {most} bytes came (max_bytes)")
            if state == _BEGIN:
                parts.clear()
            parts.append(part)
        if state != _END:
            raise errors.ProtocolError("an observation without its last piece came")
        found = await asyncio.to_thread(loads, b"".join(parts))
        if not isinstance(found, Record) or found.name != "TimedObservation":
            raise errors.ProtocolError("a pickled TimedObservation is expected")
        _check_times(found)
        if found.fields["timestep"] > client.last_step or found.fields.get("must_go"):
            client.waiting = found
            client.came.set()

    async def actions(self, _: bytes, context: Any) -> bytes:
        """The actions for the client's newest observation; nothing where there is none."""
        try:
            client = self._client(context)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(client.came.wait(), self._settings.wait_s)
            client.came.clear()
            observation, client.waiting = client.waiting, None
            if observation is None:
                return b""
            packed = chunk_of(await self._infer(context.peer(), client, observation))
            self._gateway.metrics.sent(NAME, len(packed))
            return packed
        except errors.PolicyError as error:
            logger.warning("%s: %s has no actions: %s", NAME, context.peer(), error)
            line = one_line(error).encode("ascii", "replace").decode()
            context.set_trailing_metadata((("error", line[:1000]),))
        except Exception:
            logger.exception("%s: a bug ended a call: please report it", NAME)
        # Its client asks again at once, without an observation that can be answered.
        await asyncio.sleep(min(0.05, self._settings.wait_s))
        return b""

    async def _infer(self, peer: str, client: _Client, observation: Record) -> bytes:
        setup = client.setup
        features = {} if setup is None else setup.fields.get("lerobot_features")
        flat = flat_observation(observation.fields.get("observation"), features)
        ours = self._gateway.mapping(client.identity, NAME).to_ours(flat)
        async with self._peers.use(peer, client.identity) as robot:
            result = await robot.infer(ours)
        actions = np.asarray(result["actions"], np.float32)
        most = None if setup is None else setup.fields.get("actions_per_chunk")
        if isinstance(most, int) and most > 0:
            actions = actions[:most]
        step = observation.fields["timestep"]
        client.last_step = max(client.last_step, step)
        return dump_actions(
            observation.module,
            actions,
            timestamp=observation.fields["timestamp"],
            timestep=step,
            step_s=1.0 / self._settings.fps,
        )

    def _client(self, context: Any) -> _Client:
        """The client of a connection; one that came back has the instructions of its host's last.

        Others may share that host: where Api-Keys are asked for, it has to show the same one.

        Raises:
            Forbidden: it shows no key that is known.
            ProtocolError: nobody there with its key has sent instructions.
        """
        peer = context.peer()
        client = self._clients.get(peer)
        if client is None:
            known = self._setups.get(_host(peer))
            if known is None or known[0] != self._identify(context, None):
                raise errors.ProtocolError("SendPolicyInstructions must come first")
            self._forget_old()
            client = self._clients[peer] = _Client(*known)
        client.seen_at = time.monotonic()
        return client

    def _identify(self, context: Any, path: Any) -> Identity:
        sent = dict(context.invocation_metadata() or ())
        scheme, _, key = path.partition(":") if isinstance(path, str) else ("", "", "")
        if scheme == "api-key":
            return self._gateway.keys.identify(key)
        return self._gateway.keys.identify_header(sent.get("authorization"))

    def _forget_old(self) -> None:
        oldest = time.monotonic() - self._settings.idle_s
        for peer in [each for each, client in self._clients.items() if client.seen_at < oldest]:
            del self._clients[peer]
        while len(self._clients) >= 2 * self._gateway.config.max_robots:
            del self._clients[min(self._clients, key=lambda each: self._clients[each].seen_at)]
        while len(self._setups) >= 2 * self._gateway.config.max_robots:
            del self._setups[next(iter(self._setups))]


def _host(peer: str) -> str:
    return peer.rpartition(":")[0]


def _check_times(found: Record) -> None:
    step, stamp = found.fields.get("timestep"), found.fields.get("timestamp")
    if type(step) is not int or not 0 <= step < 2**31:
        raise errors.BadObservation("timestep must be a count")
    if not isinstance(stamp, (int, float)):
        raise errors.BadObservation("timestamp must be a number of seconds")
