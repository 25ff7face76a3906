"""A robot of another dialect: one client of the broker, counted, and looked at if asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from broker.gateway.async_client import AsyncPolicyClient
from broker.gateway.metrics import Metrics
from broker.gateway.tracing import Tracing
from client import errors

WATCHED_S = 5.0  # so long a look at a robot has its observations kept for the next


class Seen(NamedTuple):
    """A robot's last request: when it was answered (time of day), observation and actions."""

    at: float
    observation: dict[str, Any]
    actions: np.ndarray[Any, Any]


class RobotSession:
    """One connection's robot. Calls take turns; `close` ends the one that is under way.

    Attributes:
        name: for people to read.
        policy: the served name that it asks for; None: the only one that is served.
        seen: its last request, where somebody looks at it.
    """

    def __init__(
        self,
        client: AsyncPolicyClient,
        *,
        dialect: str,
        name: str,
        policy: str | None,
        deadline_s: float,
        metrics: Metrics,
        tracing: Tracing | None,
        closed: Callable[[RobotSession], None],
    ) -> None:
        """`client` becomes its own; `closed` is called at its end."""
        self.name, self.policy, self.dialect = name, policy, dialect
        self._client, self._deadline_s = client, deadline_s
        self._metrics, self._tracing, self._closed = metrics, tracing, closed
        self._is_closed = False
        self._watched_until = float("-inf")
        self.seen: Seen | None = None

    @property
    def id(self) -> str:
        """What the broker calls it, as in its status."""
        return self._client.id

    def watch(self) -> None:
        """Keep its observations for the next seconds: somebody looks."""
        self._watched_until = time.monotonic() + WATCHED_S

    async def infer(
        self,
        observation: dict[str, Any],
        *,
        deadline_s: float | None = None,
        seed: int | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Ask for a chunk of actions, as `ZmqPolicyClient.infer` does.

        Args:
            observation: ours, with the keys that the served robot expects.
            deadline_s: time for all of it; by default the setting of that name.
            seed: of the noise.
            options: those of `ZmqPolicyClient.infer`, such as `prev_actions`.

        Returns:
            `actions` (horizon, action_dim), `policy_timing`, `server_timing`, `client_timing`.

        Raises:
            errors.PolicyError: one of its subclasses, see `client.errors`.
        """
        until = time.monotonic() + (self._deadline_s if deadline_s is None else deadline_s)
        began = time.perf_counter()
        outcome = "error"
        told: Any = None
        try:
            result = await self._client.infer(observation, until, seed=seed, **options)
            outcome, told = "answered", result
            self._keep(observation, result)
            return result
        except asyncio.CancelledError:
            outcome = "client_gone"
            raise
        except errors.PolicyError as error:
            outcome, told = error.code(), error
            raise
        finally:
            spent_s = time.perf_counter() - began
            self._metrics.request(self.dialect, self.policy or "", outcome, spent_s)
            if self._tracing is not None and told is not None:
                about = {"robot": self.name, "policy": self.policy or "", "dialect": self.dialect}
                self._tracing.request(about, time.time_ns(), spent_s, told)

    async def reset(self) -> None:
        """Begin a new episode: what the old one still has waiting is dropped.

        Raises:
            errors.PolicyError: the broker could not be reached in time.
        """
        await self._client.reset(time.monotonic() + self._deadline_s)

    async def metadata(self) -> dict[str, Any]:
        """What the policy says of itself; waits for a worker that says it, as `infer` does.

        Raises:
            errors.PolicyError: nobody did in time, or the policy is unknown.
        """
        return await self._client.metadata(time.monotonic() + self._deadline_s)

    def close(self) -> None:
        """End it; a call that is under way raises `ClientClosed`. May be called twice."""
        if not self._is_closed:
            self._is_closed = True
            self._client.close()
            self._closed(self)

    async def __aenter__(self) -> RobotSession:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def _keep(self, observation: dict[str, Any], result: dict[str, Any]) -> None:
        is_watched = time.monotonic() < self._watched_until
        self.seen = Seen(time.time(), observation, result["actions"]) if is_watched else None
