"""`ZmqPolicyClient`: what a robot's control loop holds."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import socket as hostnames
import threading
import time
import uuid
from typing import Any, Dict, List, Union

import numpy as np
import zmq

from client import errors
from client.body import decode_body, encode_body
from client.connection import Connection
from client.keys import read_key
from client.wire import (
    LONGEST_MS,
    MAX_NAME,
    TO_CLIENT,
    VERSION,
    Header,
    RequestId,
    decode_header,
    encode_header,
)

logger = logging.getLogger(__name__)

DEFAULT_PORT = 8000
LONGEST_S = LONGEST_MS / 1e3
_WAITING_NOTICE_S = 5.0
_LIMITS_S = 1.0  # to ask a broker once more what it takes

Observation = Dict[str, Any]
_Body = List[Union[bytes, memoryview]]


class ZmqPolicyClient:
    """Asks a policy behind a broker for chunks of actions.

        with ZmqPolicyClient("gpu-server") as policy:
            actions = policy.infer(observation)["actions"]  # (horizon, action_dim)

    It has the interface of openpi's `BasePolicy`, so its runtime and chunk broker drive it.
    Every call ends within its time with an answer or with an `errors.PolicyError`; an answer
    always belongs to the observation just given. Calls from several threads take turns.
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = DEFAULT_PORT,
        *,
        policy: str | None = None,
        timeout_s: float = 10.0,
        connect_timeout_s: float = 120.0,
        robot: str | None = None,
        session: str | None = None,
        priority: int = 1,
        copy: bool = False,
        key: str | os.PathLike[str] | None = None,
    ) -> None:
        """Connect, waiting for the broker to come up.

        Args:
            host: host name or address, or a whole ZeroMQ endpoint such as `tcp://[::1]:8000`.
            port: the broker's frontend.
            policy: the served name to ask for; needed where several are served.
            timeout_s: bounds every call; `deadline_s` of `infer` overrides it for that call.
            connect_timeout_s: how long to wait here for the broker.
            robot: a name for people to read; the host's name by default.
            session: name of the first episode; `reset` begins another.
            priority: class of this robot's requests, 0 first, 9 last.
            copy: copy the arrays of an observation before sending. Needed only where a camera
                may write into them before `infer` returns.
            key: this robot's key file, where the broker asks for keys. It also holds what the
                broker is known by, so nobody else can pose as it.

        Raises:
            Forbidden: the broker doesn't take this key.
            BrokerUnreachable: nobody answered within `connect_timeout_s`.
            ConnectionRefusedByPeer: something else than a broker answered.
            ValueError: an argument is out of its range, or no key file.
        """
        for name, given in (("timeout_s", timeout_s), ("connect_timeout_s", connect_timeout_s)):
            if not 0 < given <= LONGEST_S:
                raise ValueError(f"{name} is {given}: seconds from more than 0 to a day")
        if not 0 <= priority <= 9:
            raise ValueError(f"priority is {priority}: 0 (first) to 9 are the classes")
        if not 0 < port < 65536:
            raise ValueError(f"port is {port}: 1 to 65535")
        if "://" not in host:
            if host.count(":") == 1 or "]:" in host:
                raise ValueError(f"host is {host!r}: the port is given as port=, by itself")
            # Only addresses of IPv6 have colons.
            host = f"tcp://[{host.strip('[]')}]:{port}" if ":" in host else f"tcp://{host}:{port}"
        self._timeout_s = timeout_s
        self._copy = copy
        self._uuid = uuid.uuid4().bytes
        self._sequence = itertools.count()
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._closed = False
        self._max_bytes: int | None = None
        self._fields: Header = {
            "v": VERSION,
            "priority": priority,
            "session": session or uuid.uuid4().hex[:8],
            "robot": (robot or hostnames.gethostname())[:MAX_NAME],
            "buffers": True,
        }
        if policy is not None:
            self._fields["policy"] = policy
        self._connection = Connection(host, None if key is None else read_key(key))
        try:
            self.server_info = self._greet(connect_timeout_s)
        except BaseException:
            self._connection.drop()
            raise

    def infer(
        self,
        obs: Observation,
        *,
        noise: np.ndarray[Any, Any] | None = None,
        seed: int | None = None,
        deadline_s: float | None = None,
        prev_actions: np.ndarray[Any, Any] | None = None,
        inference_delay: int | None = None,
        prefix_attention_horizon: int | None = None,
        schedule: str | None = None,
        max_guidance_weight: float | None = None,
        mode: str | None = None,
    ) -> dict[str, Any]:
        """Ask for a chunk of actions.

        Args:
            obs: the observation in the form that the served robot expects. Its arrays must not
                be written until this returns (unless the client was made with `copy=True`).
            noise: float32 (horizon, model action dim), the flow's starting point.
            seed: of the noise, where none is given. By default it derives from the request.
            deadline_s: time for this request instead of the client's `timeout_s`.
            prev_actions: for real-time chunking: what is left of the previous chunk, floats
                (rows, action_dim) as the robot got them; row 0 was due when `obs` was taken. The
                new chunk begins as these go on. `AsyncActionChunkBroker` does all of this.
            inference_delay: rows of it that will have been executed before the answer comes (0).
            prefix_attention_horizon: rows of it that are heeded at all (all).
            schedule: how heed fades after the delay: `linear`, `exp`, `ones` or `zeros`.
            max_guidance_weight: how strong the pull is at most (10; 5 with `vjp`).
            mode: `identity` (default), `vjp`, or `trained` where the checkpoint was trained for it.

        Returns:
            `actions`, (horizon, action_dim), and the milliseconds that were spent:
            `policy_timing` inside the policy, `server_timing` in broker and worker,
            `client_timing` here and in the network. No other array.

        Raises:
            errors.PolicyError: one of its subclasses, see `client.errors`.
            ValueError: `deadline_s` is not a number.
        """
        if deadline_s is not None and math.isnan(deadline_s):
            raise ValueError("deadline_s is nan: seconds are expected")
        started = time.monotonic()
        until = started + (self._timeout_s if deadline_s is None else min(deadline_s, LONGEST_S))
        rtc = {
            "prev_actions": prev_actions,
            "inference_delay": inference_delay,
            "prefix_attention_horizon": prefix_attention_horizon,
            "schedule": schedule,
            "max_guidance_weight": max_guidance_weight,
            "mode": mode,
        }
        given = _with_options(obs, noise=noise, seed=seed, **rtc)
        body = encode_body(given, copy=self._copy)
        encoded = time.monotonic()
        header, frames = self._exchange("infer", body, until)
        arrived = time.monotonic()
        result = decode_body(frames)
        finished = time.monotonic()

        server: dict[str, float] = header.get("timing", {})
        result["server_timing"] = server
        result["client_timing"] = {
            "encode_ms": (encoded - started) * 1e3,
            "network_ms": (arrived - encoded) * 1e3 - _accounted(server),
            "decode_ms": (finished - arrived) * 1e3,
            "total_ms": (finished - started) * 1e3,
        }
        return result

    def reset(self) -> None:
        """Begin a new episode: what the old one still has waiting is dropped.

        Raises:
            errors.PolicyError: the broker could not be reached within `timeout_s`.
        """
        self._exchange("reset", [], time.monotonic() + self._timeout_s)
        self._fields["session"] = uuid.uuid4().hex[:8]

    def get_server_metadata(self) -> dict[str, Any]:
        """What the served policy says of itself: robot, model, horizon, observation, ...

        Raises:
            errors.PolicyError: see `client.errors`.
        """
        _, frames = self._exchange("metadata", [], time.monotonic() + self._timeout_s)
        return decode_body(frames)

    def ping(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Ask the broker itself for its version, limits and served policies.

        Raises:
            errors.PolicyError: see `client.errors`.
        """
        until = time.monotonic() + (timeout_s or self._timeout_s)
        _, frames = self._exchange("ping", [], until)
        return self._learn(frames)

    def status(self) -> dict[str, Any]:
        """Ask the broker for its workers, robots, queues, latencies and counters.

        Raises:
            errors.Forbidden: the broker asks for keys, and this one is no operator's.
            errors.PolicyError: see `client.errors`.
        """
        _, frames = self._exchange("status", [], time.monotonic() + self._timeout_s)
        return decode_body(frames)

    def close(self) -> None:
        """Close the socket; further calls raise `ClientClosed`. May be called twice."""
        if os.getpid() != self._pid:
            # The socket is the parent's, and the lock may have come here locked, for ever.
            self._closed = True
            return
        with self._lock:
            self._closed = True
            self._connection.drop()

    def __enter__(self) -> ZmqPolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _greet(self, timeout_s: float) -> dict[str, Any]:
        until = time.monotonic() + timeout_s
        while True:
            # In slices, so that someone who mistyped the host reads why nothing happens.
            try:
                return self.ping(min(_WAITING_NOTICE_S, until - time.monotonic()))
            except (ConnectionError, errors.DeadlineExceeded) as error:
                if time.monotonic() >= until:
                    raise
                logger.warning("still waiting: %s", error)

    def _exchange(self, kind: str, body: _Body, until: float) -> tuple[Header, list[zmq.Frame]]:
        """Send one request and return its answer's header, and body with buffers."""
        if os.getpid() != self._pid:
            raise errors.ClientClosed("this client was made in another process: make one here")
        if not self._lock.acquire(timeout=max(0.0, until - time.monotonic())):
            raise errors.DeadlineExceeded("another thread's call on this client took all the time")
        try:
            if self._closed:
                raise errors.ClientClosed("this client is closed: make a new one")
            if self._is_too_large(body):
                # Or was: a broker that was started again may take more.
                with contextlib.suppress(errors.PolicyError):
                    self._ask_limits(min(until, time.monotonic() + _LIMITS_S))
                self._check_size(body)
            reply, frames = self._answer(self._header(kind), body, until)
        except BaseException:
            # Given up or interrupted: whatever still comes must not find this socket.
            self._connection.drop()
            raise
        finally:
            self._lock.release()
        if reply["kind"] == "error":
            raise errors.from_wire(
                reply.get("code", ""), reply.get("message", ""), reply.get("retry_after_ms")
            )
        return reply, frames

    def _header(self, kind: str) -> Header:
        id = RequestId(self._uuid, next(self._sequence))
        return {**self._fields, "kind": kind, "id": id}

    def _answer(self, header: Header, body: _Body, until: float) -> tuple[Header, list[zmq.Frame]]:
        """Ask until there is an answer: the same id again, whenever the connection was lost."""
        pause_s = 0.0
        while True:
            answer = self._ask(header, body, until)
            if answer is not None:
                return answer
            # A peer that hangs up on every question is not asked as fast as it can be.
            time.sleep(min(pause_s, max(0.0, until - time.monotonic())))
            pause_s = min(2 * pause_s or 0.01, 1.0)
            if body:
                # It may be another broker now, with other limits; and what is far above them a
                # broker hangs up on without a word.
                self._ask_limits(until)
                self._check_size(body)

    def _ask(
        self, header: Header, body: _Body, until: float
    ) -> tuple[Header, list[zmq.Frame]] | None:
        """Ask once; None if the connection was lost, or time is up."""
        left_ms = (until - time.monotonic()) * 1e3
        if left_ms <= 0:
            raise errors.DeadlineExceeded(f"no answer from {self._connection.endpoint} in time")
        # The broker gives up a little before we do, so that its reason arrives in time.
        header["deadline_ms"] = left_ms - min(100.0, 0.1 * left_ms)
        if not self._connection.send([encode_header(header), *body], until):
            raise self._connection.failure()
        frames = self._connection.receive(until)
        if frames is not None:
            reply = decode_header(frames[0], TO_CLIENT)
            # An error about a header that could not be read has no id to carry.
            answered = reply.get("id")
            if answered == header["id"] or (answered is None and reply["kind"] == "error"):
                return reply, frames[1:]
            logger.warning("dropped an answer to another request")
        self._connection.drop()
        return None

    def _ask_limits(self, until: float) -> None:
        """Learn what the broker takes, if it says so before it is gone again."""
        answer = self._ask(self._header("ping"), [], until)
        if answer is not None and answer[0]["kind"] == "pong":
            self._learn(answer[1])

    def _learn(self, frames: list[zmq.Frame]) -> dict[str, Any]:
        info = decode_body(frames)
        self._max_bytes = info.get("max_bytes")
        return info

    def _is_too_large(self, body: _Body) -> bool:
        return self._max_bytes is not None and sum(map(len, body)) > self._max_bytes

    def _check_size(self, body: _Body) -> None:
        if self._is_too_large(body):
            raise errors.MessageTooLarge(
                f"the observation has {sum(map(len, body))} bytes, the broker takes "
                f"{self._max_bytes}: send uint8 images resized with image_tools.resize_with_pad, "
                "or raise the broker's limits.max_bytes"
            )


def _with_options(obs: Observation, **options: Any) -> Observation:
    given = {name: value for name, value in options.items() if value is not None}
    return {**obs, **given} if given and isinstance(obs, dict) else obs


def _accounted(server: dict[str, float]) -> float:
    """Milliseconds of the round trip that broker and worker claim for their own stages."""
    stages = ("queue_ms", "decode_ms", "wait_ms", "infer_ms", "encode_ms")
    return sum(server.get(stage, 0.0) for stage in stages)
