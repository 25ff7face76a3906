"""GR00T's ZeroMQ, N1.5 to 1.7: one msgpack frame `{endpoint, data, api_token?}` and one answer.

    endpoint              answer
    ping, reset           {status: "ok", message}; a reset begins a new episode
    get_action            [{name: float32 (B, T, D)}, {}]
    get_modality_config   {video, state, language, action: modality configuration}
    kill and others       {error}

N1.5 sends flat observations without B, and gets {action.name: (T, D)}. Arrays are `.npy` files in a
map, or in msgpack-numpy's form: an answer's have the form of its request's. The client raises what
`{error: text}` says.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from tokenize import TokenError
from typing import Any

import numpy as np
import zmq
import zmq.asyncio

from broker.gateway import arrays
from broker.gateway.access import Identity
from broker.gateway.config import GrootSettings, host_and_port
from broker.gateway.gateway import Gateway
from broker.gateway.mapping import Mapping, flatten
from broker.gateway.peers import Peers
from broker.gateway.websocket import one_line
from client import errors

logger = logging.getLogger("gateway")

NAME = "groot"
# A message of this many times max_bytes is still read and refused with an error; beyond it the
# client is hung up on, and ends in its own timeout.
_READ_TO_REFUSE = 8
_DEEPEST = 16  # maps and lists inside each other
_LARGEST_BATCH = 64
# What numpy raises on headers; the last three on brackets that are nested too deeply.
_BAD_HEADER = (
    ValueError,
    KeyError,
    TypeError,
    SyntaxError,
    TokenError,
    RecursionError,
    MemoryError,
)
_HORIZON = 16  # of the modality configuration, where a policy says none


@contextlib.asynccontextmanager
async def listen(gateway: Gateway, settings: GrootSettings) -> AsyncIterator[None]:
    """Serve GR00T's clients.

    Raises:
        OSError: the address cannot be bound.
    """
    host, port = host_and_port(f"{NAME}.listen", settings.listen or "")
    context = zmq.asyncio.Context()
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.LINGER, 0)
    router.setsockopt(zmq.IPV6, int(":" in host))
    router.setsockopt(zmq.RCVHWM, 2)  # a client asks once at a time
    router.setsockopt(zmq.MAXMSGSIZE, _READ_TO_REFUSE * gateway.config.max_bytes)
    router.setsockopt(zmq.HANDSHAKE_IVL, int(gateway.config.handshake_s * 1e3))
    try:
        router.bind(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
        async with Peers(gateway, NAME, settings.idle_s) as peers:
            server = _Server(gateway, settings, peers, router)
            serving = asyncio.create_task(server.run())
            yield
            serving.cancel()
            await server.stop()
    finally:
        router.close()
        context.term()


class _Server:
    """Takes requests off one socket and answers each in a task of its own."""

    def __init__(
        self, gateway: Gateway, settings: GrootSettings, peers: Peers, router: zmq.asyncio.Socket
    ) -> None:
        self._gateway, self._settings, self._peers = gateway, settings, peers
        self._router = router
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve for ever; no more requests at once than there may be robots."""
        while True:
            id, *frames = await self._router.recv_multipart()
            if len(self._tasks) >= self._gateway.config.max_robots:
                await self._send(id, errors.Overloaded("too many requests at once: ask again"))
                continue
            task = asyncio.create_task(self._serve(id, frames))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, id: bytes, frames: list[bytes]) -> None:
        try:
            if len(frames) != 2 or frames[0]:
                raise errors.ProtocolError("a REQ socket with messages of one frame is expected")
            self._gateway.metrics.received(NAME, len(frames[1]))
            await self._send(id, await self._answer(id, frames[1]))
        except errors.ClientClosed:
            pass  # the gateway stops
        except errors.PolicyError as error:
            self._gateway.metrics.refused(NAME, error.code())
            await self._send(id, error)
        except Exception:
            logger.exception("%s: a bug ended a request: please report it", NAME)
            await self._send(id, errors.PolicyFailed("internal error, see the gateway's log"))

    async def _send(self, id: bytes, answer: bytes | errors.PolicyError) -> None:
        if isinstance(answer, errors.PolicyError):
            answer = arrays.encode({"error": one_line(answer)})
        with contextlib.suppress(zmq.Again):  # it has gone, or does not read
            await self._router.send_multipart([id, b"", answer], zmq.NOBLOCK)
            self._gateway.metrics.sent(NAME, len(answer))

    async def _answer(self, id: bytes, message: bytes) -> bytes:
        most = self._gateway.config.max_bytes
        if len(message) > most:
            raise errors.MessageTooLarge(f"{len(message)} bytes came: max_bytes is {most}")
        request = arrays.decode(message)
        if not isinstance(request, dict):
            raise errors.ProtocolError("a msgpack map {endpoint, data} is expected")
        token = request.get("api_token")
        identity = self._gateway.keys.identify(token if isinstance(token, str) else None)
        endpoint, data = request.get("endpoint", "get_action"), request.get("data") or {}
        mapping = self._gateway.mapping(identity, NAME)
        if endpoint == "ping":
            return arrays.encode({"status": "ok", "message": "the gateway is running"})
        if not isinstance(data, dict):
            raise errors.ProtocolError(f"data is a {type(data).__name__}: a map is expected")
        if endpoint == "get_action":
            return await self._act(id, identity, mapping, data)
        async with self._peers.use((id, identity), identity) as robot:
            if endpoint == "reset":
                await robot.reset()
                return arrays.encode({"status": "ok", "message": "reset"})
            if endpoint == "get_modality_config":
                horizon = (await robot.metadata()).get("action_horizon", _HORIZON)
                return _modalities(mapping, horizon, is_text=self._settings.config_as_text)
        raise errors.ProtocolError(
            f"endpoint {endpoint!r:.40} is refused here: ping, get_action, reset, "
            "get_modality_config"
        )

    async def _act(
        self, id: bytes, identity: Identity, mapping: Mapping, data: dict[Any, Any]
    ) -> bytes:
        is_flat = "observation" not in data
        observation, is_npy = unpack(data if is_flat else data["observation"])
        options = data.get("options") if not is_flat else None
        seed = options.get("seed") if isinstance(options, dict) else None
        if not isinstance(observation, dict):
            raise errors.BadObservation("observation must be a map of video, state, language")
        chunks = []
        async with self._peers.use((id, identity), identity) as robot:
            for row in rows(flatten(observation), is_flat=is_flat):
                result = await robot.infer(mapping.to_ours(row), seed=seed)
                chunks.append(mapping.to_theirs(result["actions"]) or {"action": result["actions"]})
        named = {
            name: np.stack([np.asarray(chunk[name], np.float32) for chunk in chunks])
            for name in chunks[0]
        }
        if is_flat:
            return _pack({f"action.{name}": value[0] for name, value in named.items()}, is_npy)
        return _pack([named, {}], is_npy)


def unpack(tree: Any, depth: int = 0) -> tuple[Any, bool]:
    """The tree with its `.npy` files as arrays, and whether there were any.

    Raises:
        ProtocolError: one is no `.npy` file of numbers, or it is nested too deeply.
    """
    if depth > _DEEPEST:
        raise errors.ProtocolError(f"maps and lists are nested deeper than {_DEEPEST}")
    if isinstance(tree, dict):
        if "__ndarray_class__" in tree:
            return read_npy(tree.get("as_npy")), True
        parts = {key: unpack(value, depth + 1) for key, value in tree.items()}
        return {key: part for key, (part, _) in parts.items()}, any(
            is_npy for _, is_npy in parts.values()
        )
    return tree, False


def read_npy(data: Any) -> np.ndarray[Any, Any]:
    """The array of a `.npy` file's bytes; of numbers, booleans or text, never of objects.

    Raises:
        ProtocolError: it is none, or its size is not what it says.
    """
    if not isinstance(data, bytes):
        raise errors.ProtocolError("as_npy must be the bytes of a .npy file")
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}
        read[2, 0] = np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read[version](file)
    except _BAD_HEADER as error:
        raise errors.ProtocolError(f"as_npy is no .npy file: {str(error)[:80]}") from error
    rest = memoryview(data)[file.tell() :]
    made = arrays.array(rest, dtype.str, tuple(reversed(shape)) if is_fortran else shape)
    return made.T if is_fortran else made


def rows(flat: dict[str, Any], *, is_flat: bool) -> Iterator[dict[str, Any]]:
    """The observations of a batch one by one, of each the latest of its time steps.

    video (B, T, H, W, 3), state (B, T, D), language [[text]]; where it is flat, as N1.5 sends it,
    there is no B.

    Raises:
        BadObservation: an array has other dimensions, or the batches differ in size.
    """
    named = {key: value if not is_flat else [value] for key, value in flat.items()}
    sizes = {len(value) for value in named.values() if isinstance(value, (list, np.ndarray))}
    if len(sizes) != 1 or not 0 < max(sizes) <= _LARGEST_BATCH:
        raise errors.BadObservation(
            f"the batch has {sorted(sizes)} rows: one number for all keys, 1 to {_LARGEST_BATCH}"
        )
    for number in range(sizes.pop()):
        yield {key: _latest(key, value, number) for key, value in named.items()}


def _latest(key: str, batch: Any, number: int) -> Any:
    if not isinstance(batch, (list, np.ndarray)):
        raise errors.BadObservation(f"{key} is a {type(batch).__name__}: an array is expected")
    steps = batch[number]
    if isinstance(steps, str):
        return steps
    expected = {"video": 4, "state": 2}.get(key.partition(".")[0])
    if isinstance(steps, np.ndarray) and expected not in (None, steps.ndim):
        raise errors.BadObservation(
            f"{key} has {steps.ndim} dimensions for each robot: {expected} are expected, "
            "of which the first is time"
        )
    if not isinstance(steps, (list, np.ndarray)) or not len(steps):
        raise errors.BadObservation(f"{key} has no time steps")
    return str(steps[-1]) if isinstance(steps[-1], str) else steps[-1]


def _pack(tree: Any, is_npy: bool) -> bytes:
    return arrays.encode(_with_npy(tree)) if is_npy else arrays.encode_msgpack_numpy(tree)


def _with_npy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _with_npy(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_with_npy(value) for value in tree]
    file = io.BytesIO()
    np.save(file, tree, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": file.getvalue()}


def _modalities(mapping: Mapping, horizon: Any, *, is_text: bool) -> bytes:
    theirs = [key for keys in mapping.observation.values() for key in keys]
    steps = list(range(horizon)) if isinstance(horizon, int) and 0 < horizon < 10_000 else [0]
    found = {}
    for kind in ("video", "state", "language"):
        names = [key.partition(".")[2] for key in theirs if key.startswith(f"{kind}.")]
        found[kind] = {"delta_indices": [0], "modality_keys": names}
    found["action"] = {"delta_indices": steps, "modality_keys": list(mapping.actions)}
    return arrays.encode(
        {
            kind: {
                "__ModalityConfig_class__": True,
                "as_json": json.dumps(each) if is_text else each,
            }
            for kind, each in found.items()
        }
    )
