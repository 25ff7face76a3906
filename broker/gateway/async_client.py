"""`ZmqPolicyClient` for an event loop: the same session with the broker, without a thread.

A thread for each robot was measured to cost 150 µs of processor time a request, and to double the
latency where many processes share few cores.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Sequence
from random import Random
from typing import Any

import zmq

from broker.gateway.loop_connections import LoopConnections, connect
from client import errors
from client.arguments import fresh_session, whole_seed
from client.body import decode_body, encode_body
from client.keys import Key
from client.route import Route
from client.session import Body, Done, Failed, Frames, Pause, Send, Session
from client.shared_memory import Regions, Written, host_token
from client.wire import VERSION, Header

logger = logging.getLogger("gateway")

_STAGES = ("queue_ms", "decode_ms", "wait_ms", "infer_ms", "encode_ms")


class AsyncPolicyClient:
    """Asks a policy behind a broker for chunks of actions. Calls take turns.

    It is made, used and closed in one event loop.
    """

    def __init__(
        self, endpoints: Sequence[str], *, policy: str | None, robot: str, key: Key | None
    ) -> None:
        """Begin to connect.

        Args:
            endpoints: of the brokers, in order of preference.
            policy: the served name, if it matters.
            robot: a name for people.
            key: where the brokers ask for one.

        Raises:
            BrokerUnreachable: an endpoint is not an address.
        """
        fields: Header = {"v": VERSION, "session": fresh_session(), "robot": robot, "buffers": True}
        if policy is not None:
            fields["policy"] = policy
        route = Route(len(endpoints), Random())
        told = ", ".join(endpoints)
        self._session = Session(uuid.uuid4().bytes, fields, told, host_token(), route)
        self._connection = connect(endpoints, key, route)
        self._regions = Regions()
        self._turn = asyncio.Lock()
        self._has_greeted = self._is_closed = False

    @property
    def id(self) -> str:
        """What the broker's status and every process's log call this client: 8 hex digits."""
        return self._session.client.hex()[:8]

    async def infer(
        self, observation: dict[str, Any], until: float, *, seed: int | None = None, **options: Any
    ) -> dict[str, Any]:
        """A chunk of actions, as `ZmqPolicyClient.infer` returns it.

        Args:
            observation: ours; with arrays that stay as they are until this returns.
            until: when it has to end, a `time.monotonic()` value.
            seed: of the noise.
            options: those of `ZmqPolicyClient.infer`, such as `prev_actions`.

        Raises:
            errors.PolicyError: see `client.errors`.
        """
        began = time.monotonic()
        if seed is not None:
            options["seed"] = whole_seed(seed)
        given = {name: value for name, value in options.items() if value is not None}
        body = encode_body({**observation, **given} if given else observation)
        encoded = time.monotonic()
        header, frames = await self._ask("infer", body, until)
        arrived = time.monotonic()
        result = decode_body(frames)
        ended = time.monotonic()
        timing: dict[str, float] = header.get("timing", {})
        network_s = arrived - encoded
        result["server_timing"] = timing
        result["client_timing"] = {
            "encode_ms": (encoded - began) * 1e3,
            "network_ms": network_s * 1e3 - sum(timing.get(stage, 0.0) for stage in _STAGES),
            "decode_ms": (ended - arrived) * 1e3,
            "total_ms": (ended - began) * 1e3,
        }
        return result

    async def reset(self, until: float) -> None:
        """Begin a new episode.

        Raises:
            errors.PolicyError: the broker could not be reached in time.
        """
        await self._ask("reset", [], until)
        self._session.fields["session"] = fresh_session()

    async def metadata(self, until: float) -> dict[str, Any]:
        """What the policy says about itself; waits for a worker that says it.

        Raises:
            errors.PolicyError: see `client.errors`.
        """
        _, frames = await self._ask("metadata", [], until)
        return decode_body(frames)

    def close(self) -> None:
        """End it; a call that is under way raises `ClientClosed`. May be called twice."""
        self._is_closed = True
        self._connection.interrupt()
        if not self._turn.locked():
            self._free()

    async def _ask(self, kind: str, body: Body, until: float) -> tuple[Header, Frames]:
        """Take a turn.

        Raises:
            ClientClosed: it was closed.
            DeadlineExceeded: other calls took all the time.
            PolicyError: see `client.errors`.
        """
        if self._turn.locked():
            try:
                async with asyncio.timeout_at(until):
                    await self._turn.acquire()
            except TimeoutError:
                message = "another request of this robot took all the time"
                raise errors.DeadlineExceeded(message) from None
        else:
            await self._turn.acquire()  # at once
        try:
            if self._is_closed:
                raise errors.ClientClosed("this session is closed")
            if not self._has_greeted:  # it tells how large a message may be
                _, frames = await self._exchange("ping", [], until)
                self._session.learn(frames)
                self._has_greeted = True
            return await self._through_memory(kind, body, until)
        finally:
            self._turn.release()
            if self._is_closed:
                self._free()

    def _free(self) -> None:
        self._connection.close()
        self._regions.close()

    async def _through_memory(self, kind: str, body: Body, until: float) -> tuple[Header, Frames]:
        """Exchange, with large arrays in memory where the workers can read it."""
        if len(body) < 2 or not self._session.memory.is_on:
            return await self._exchange(kind, body, until)
        region = self._regions.take()
        try:
            reference = region.write(body[1:])
            if reference is None:
                self._session.memory.failed(time.monotonic())
            return await self._exchange(kind, body, until, reference)
        finally:
            self._regions.give_back(region)

    async def _exchange(
        self, kind: str, body: Body, until: float, reference: Written | None = None
    ) -> tuple[Header, Frames]:
        try:
            outcome = await self._converse(kind, body, until, reference)
        except zmq.ZMQError as error:
            self._connection.drop()
            raise errors.BrokerUnreachable(f"ZeroMQ itself failed: {error}") from error
        except BaseException:
            # Also where it was cancelled: an answer that still comes is no later call's.
            self._connection.drop()
            raise
        if isinstance(outcome, Failed):
            if not outcome.is_clean:
                self._connection.drop()
            raise outcome.error
        return outcome.header, outcome.frames

    async def _converse(
        self, kind: str, body: Body, until: float, reference: Written | None
    ) -> Done | Failed:
        """Carry out what the session asks for, until it has an outcome."""
        session, connection = self._session, self._connection
        now = time.monotonic()
        if isinstance(connection, LoopConnections):
            connection.look(now)
        action = session.ask(kind, body, until, now, reference)
        while not isinstance(action, (Done, Failed)):
            if isinstance(action, Send):
                if await connection.send_soon(action.frames, action.until):
                    action = session.sent()
                    continue
                frames = None
            elif isinstance(action, Pause):
                if action.reason:
                    logger.info("asking again soon: %s", action.reason)
                connection.drop()
                await connection.pause_until(action.until)
                frames = None
            elif action.may_be_long and isinstance(connection, LoopConnections):
                frames = await connection.receive_slow_soon(action.until, session.fields)
            else:
                frames = await connection.receive_soon(action.until)
            now = time.monotonic()
            if frames is not None:
                action = session.received(frames, now)
            elif connection.is_interrupted:
                raise errors.ClientClosed("this session is closed")
            elif connection.is_forbidden:
                raise connection.failure()
            elif now >= action.until:
                action = session.wake(now)
            else:
                connection.drop()
                action = session.lost(now)
        if isinstance(action, Failed) and action.is_unsent:
            raise connection.failure()
        return action
