"""`ZmqPolicyClient`: what a robot's control loop holds.

`client.body` encodes what it sends, and `client.conversation` gets the answer.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from random import Random
from socket import gethostname
from typing import Any, Sequence

import numpy as np

from client import arguments, errors
from client.arguments import LONGEST_S, integer, number, seconds, text, whole_seed
from client.body import Observation, decode_body, encode_body
from client.connections import connect
from client.conversation import Conversation
from client.image_codecs import ImageEncoder
from client.keys import read_key
from client.route import Route
from client.session import Body, Frames, Session
from client.shared_memory import Regions, host_token
from client.wire import LIVE, MAX_NAME, TRAFFIC, VERSION, Header

logger = logging.getLogger(__name__)

DEFAULT_PORT = 8000
_WAITING_NOTICE_S = 5.0


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
        host: str | Sequence[str] = "localhost",
        port: int | str = DEFAULT_PORT,
        *,
        policy: str | None = None,
        timeout_s: float = 10.0,
        connect_timeout_s: float = 120.0,
        robot: str | None = None,
        session: str | None = None,
        priority: int = 1,
        traffic: str = LIVE,
        copy: bool = False,
        key: str | os.PathLike[str] | None = None,
        image_codec: str = "raw",
        jpeg_quality: int = 95,
        shared_memory: bool = True,
    ) -> None:
        """Connect, waiting for the broker to come up.

        Args:
            host: host name or address, or a whole ZeroMQ endpoint such as `tcp://[::1]:8000`.
                Of several brokers a list, such as `["a", "b:8001"]`: the first one that is there.
            port: the broker's frontend.
            policy: the served name to ask for; needed where several are served.
            timeout_s: bounds every call; `deadline_s` of `infer` overrides it for that call.
            connect_timeout_s: how long to wait here for the broker.
            robot: a name for people to read; the host's name by default.
            session: name of the first episode; `reset` begins another.
            priority: class of this robot's requests, 0 first, 9 last.
            traffic: `live`, or `evaluation` for what can wait until no live robot does, such as
                simulations and evaluations.
            copy: copy the arrays of an observation before sending. Needed only where a camera
                may write into them before `infer` returns.
            key: this robot's key file, if the broker asks for keys. It also holds the broker's
                public key, so nobody else can pose as the broker.
            image_codec: how uint8 images travel: raw, png, or jpeg of `jpeg_quality` 1 to 100.
            shared_memory: let workers of this host and user read large arrays from memory.

        Raises:
            Forbidden: the broker does not accept this key.
            BrokerUnreachable: nobody answered within `connect_timeout_s`.
            ConnectionRefusedByPeer: something other than a broker answered.
            ValueError: an argument is not valid; the message names it.
        """
        self._timeout_s = seconds("timeout_s", timeout_s)
        connect_timeout_s = seconds("connect_timeout_s", connect_timeout_s)
        self._copy = copy
        self._images = ImageEncoder(
            text("image_codec", image_codec, MAX_NAME),
            integer("jpeg_quality", jpeg_quality, 1, 100),
        )
        self._regions = Regions()
        fields: Header = {
            "v": VERSION,
            "priority": integer("priority", priority, 0, 9),
            "session": text("session", session, MAX_NAME) if session else arguments.fresh_session(),
            "robot": text("robot", robot or gethostname(), MAX_NAME, cut=True),
            "buffers": True,
        }
        traffic = arguments.one_of("traffic", traffic, TRAFFIC)
        if traffic != LIVE:  # a broker takes that for granted
            fields["traffic"] = traffic
        if policy is not None:
            fields["policy"] = text("policy", policy, MAX_NAME)
        addresses = arguments.endpoints(host, port)
        token, route = host_token() if shared_memory else b"", Route(len(addresses), Random())
        self._session = Session(uuid.uuid4().bytes, fields, ", ".join(addresses), token, route)
        known = None if key is None else read_key(key)
        connection = connect(addresses, known, route, may_be_beside=shared_memory)
        self._conversation = Conversation(self._session, connection)
        try:
            self.server_info = self._greet(connect_timeout_s)
        except BaseException:
            self.close()
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
                new chunk continues them. `AsyncActionChunkBroker` does all of this.
            inference_delay: rows of it that will have been executed before the answer comes (0).
            prefix_attention_horizon: rows of it that influence the new chunk (by default all).
            schedule: how their weight falls after the delay: `linear`, `exp`, `ones` or `zeros`.
            max_guidance_weight: bounds the pull towards the old chunk (10; 5 with `vjp`).
            mode: `identity` (default), `vjp`, or `trained` where the checkpoint was trained for it.

        Returns:
            `actions`, (horizon, action_dim), and the milliseconds that were spent:
            `policy_timing` inside the policy, `server_timing` in broker and worker,
            `client_timing` here and in the network. No other array.

        Raises:
            errors.PolicyError: one of its subclasses, see `client.errors`.
            ValueError: `deadline_s` is not a number.
        """
        left_s = self._timeout_s
        if deadline_s is not None:
            left_s = min(number("deadline_s", deadline_s), LONGEST_S)
        started = time.monotonic()
        until = started + left_s
        options = (
            noise,
            None if seed is None else whole_seed(seed),
            prev_actions,
            inference_delay,
            prefix_attention_horizon,
            schedule,
            max_guidance_weight,
            mode,
        )
        given = arguments.with_options(obs, options)
        body = encode_body(self._images.encode(given), copy=self._copy)
        encoded = time.monotonic()
        header, frames = self._exchange(body, until)
        arrived = time.monotonic()
        result = decode_body(frames)
        finished = time.monotonic()

        server: dict[str, float] = header.get("timing", {})
        result["server_timing"] = server
        result["client_timing"] = {
            "encode_ms": (encoded - started) * 1e3,
            "network_ms": (arrived - encoded) * 1e3 - arguments.accounted(server),
            "decode_ms": (finished - arrived) * 1e3,
            "total_ms": (finished - started) * 1e3,
        }
        return result

    def reset(self) -> None:
        """Begin a new episode: a request of the old one that still waits is dropped.

        Raises:
            errors.PolicyError: the broker could not be reached within `timeout_s`.
        """
        self._conversation.exchange("reset", [], time.monotonic() + self._timeout_s)
        self._session.fields["session"] = arguments.fresh_session()

    def get_server_metadata(self) -> dict[str, Any]:
        """What the served policy says about itself: robot, model, horizon, observation, ...

        While no worker has said anything yet, this waits for one, as `infer` does.

        Raises:
            errors.PolicyError: see `client.errors`.
        """
        return self._ask("metadata")

    def ping(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Ask the broker itself, in `timeout_s`, for its version, limits and served policies.

        Raises:
            errors.PolicyError: see `client.errors`.
            ValueError: `timeout_s` is not a number.
        """
        left_s = self._timeout_s if timeout_s is None else number("timeout_s", timeout_s)
        until = time.monotonic() + min(left_s, LONGEST_S)
        return self._session.learn(self._conversation.exchange("ping", [], until)[1])

    def status(self) -> dict[str, Any]:
        """Ask the broker for its workers, robots, queues, latencies and counters.

        Raises:
            errors.Forbidden: the broker asks for keys, and this one is no operator's.
            errors.PolicyError: see `client.errors`.
        """
        return self._ask("status")

    def rollout(self, plan: dict[str, Any]) -> dict[str, Any]:
        """Tell the broker how a policy's versions share new episodes: `client.rollout`.

        Raises:
            errors.PolicyError: as of `status`.
        """
        return self._ask("rollout", *encode_body(plan, buffers=False))

    def tell_held(self, steps: int) -> None:
        """Tell the broker, with the next requests, how many control steps were held so far."""
        self._session.fields["held"] = steps

    @property
    def id(self) -> str:
        """What the broker's status and every process's log call this client: 8 hex digits."""
        return self._session.client.hex()[:8]

    @property
    def uses_shared_memory(self) -> bool:
        """Whether the next observation's large arrays go through memory and not through sockets."""
        return self._session.memory.is_on

    def close(self) -> None:
        """End this client; may be called twice, from any thread and from a signal handler.

        Returns at once. A call that is under way ends with `ClientClosed`, and so does every
        later one.
        """
        self._conversation.close()
        self._images.close()
        self._regions.close()

    def __enter__(self) -> ZmqPolicyClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, kind: str, *body: bytes | memoryview) -> dict[str, Any]:
        until = time.monotonic() + self._timeout_s
        return decode_body(self._conversation.exchange(kind, list(body), until)[1])

    def _exchange(self, body: Body, until: float) -> tuple[Header, Frames]:
        if len(body) < 2 or not self._session.memory.is_on:
            return self._conversation.exchange("infer", body, until)
        region = self._regions.take()
        try:
            if (reference := region.write(body[1:])) is None:
                self._session.memory.failed(time.monotonic())
            return self._conversation.exchange("infer", body, until, reference)
        finally:
            self._regions.give_back(region)
            if self._conversation.is_closed:
                self._regions.close()

    def _greet(self, timeout_s: float) -> dict[str, Any]:
        until = time.monotonic() + timeout_s
        while True:
            # In slices, so that someone who mistyped the host soon reads why nothing happens.
            try:
                return self.ping(min(_WAITING_NOTICE_S, until - time.monotonic()))
            except (ConnectionError, errors.DeadlineExceeded) as error:
                if time.monotonic() >= until:
                    raise
                logger.warning("still waiting: %s", error)
