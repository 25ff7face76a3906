"""What all dialects of one gateway share: who clients are, their robots' sessions, the mappings."""

from __future__ import annotations

import functools
import itertools
import logging
import time
from collections import deque
from typing import Any

import zmq

from broker.gateway.access import ApiKeys, Identity
from broker.gateway.async_client import AsyncPolicyClient
from broker.gateway.config import GatewayConfig
from broker.gateway.mapping import Mapping, read_mapping
from broker.gateway.metrics import Metrics
from broker.gateway.sessions import RobotSession
from broker.gateway.tracing import Tracing
from client import ZmqPolicyClient, errors
from client.contexts import CONTEXTS
from client.keys import read_key
from client.wire import MAX_NAME

logger = logging.getLogger("gateway")

_REFUSALS = 50
_LONGEST = 400  # characters of a message
# Of ZeroMQ, for each connection: a client's own, its monitor's two ends, and one to spare.
_SOCKETS_EACH = 4


class Gateway:
    """Lets clients in, and gives each a robot's session with the broker.

    Attributes:
        config: the settings.
        brokers: their addresses, in order of preference.
        keys: who shows which Api-Key.
        metrics: what is counted.
        tracing: where traces go, if anywhere.
        refusals: the latest that got no further than here, for people.
    """

    def __init__(self, config: GatewayConfig) -> None:
        """Read the Api-Keys and the mappings.

        Raises:
            ValueError: a file is missing or not valid.
        """
        self.config = config
        self.brokers = config.brokers()
        self.keys = ApiKeys(config.api_keys)
        self.metrics = Metrics()
        self.tracing = None if config.tracing is None else Tracing(config.tracing)
        self.refusals: deque[dict[str, Any]] = deque(maxlen=_REFUSALS)
        self._key = None if config.key is None else read_key(config.key)
        self._sessions: set[RobotSession] = set()
        self._numbers, self._refused = itertools.count(1), itertools.count(1)
        self._mappings = {
            name: read_mapping(section.mapping) for name, section in config.dialects().items()
        }
        for identity in self.keys.identities:
            if identity.mapping is not None:
                _mapping_of(identity.mapping)  # so that a mistake in it is told now
        # libzmq's default allows for 340 clients.
        # Of several, each may be asked on a second connection whether the one in use hangs.
        connections = len(self.brokers) * (1 + (len(self.brokers) > 1))
        sockets = _SOCKETS_EACH * config.max_robots * connections
        CONTEXTS.get().setsockopt(zmq.MAX_SOCKETS, max(1023, sockets))

    def open_robot(
        self, identity: Identity, dialect: str, *, name: str = "", policy: str | None = None
    ) -> RobotSession:
        """A session for one robot; its owner closes it.

        Args:
            identity: who it is, from `keys`.
            dialect: the name of its section in the settings.
            name: for people; by default its Api-Key's, or the dialect's with a number.
            policy: the served name that it asks for, where its dialect can say.

        Raises:
            Forbidden: its key is not for that policy.
            Overloaded: there are as many as may be.
            BrokerUnreachable: the broker's address is none.
        """
        config = self.config
        if len(self._sessions) >= config.max_robots:
            raise errors.Overloaded(
                f"{config.max_robots} robots are connected (max_robots): try again later"
            )
        chosen = identity.policy(policy, config.dialects()[dialect].policy)
        called = (name or identity.name or f"{dialect}-{next(self._numbers)}")[:MAX_NAME]
        client = AsyncPolicyClient(self.brokers, policy=chosen, robot=called, key=self._key)
        session = RobotSession(
            client,
            dialect=dialect,
            name=called,
            policy=chosen,
            deadline_s=config.deadline_s,
            metrics=self.metrics,
            tracing=self.tracing,
            closed=self._forget,
        )
        self._sessions.add(session)
        self.metrics.opened(dialect)
        return session

    def mapping(self, identity: Identity, dialect: str) -> Mapping:
        """Which keys of this client's observations become ours: its own, or the dialect's."""
        if identity.mapping is not None:
            return _mapping_of(identity.mapping)
        return self._mappings[dialect]

    def refuse(self, dialect: str, who: str, error: errors.PolicyError) -> None:
        """Count, log and remember what a client was refused before the broker heard of it."""
        code = error.code()
        self.metrics.refused(dialect, code)
        logger.warning("%s: refused %s: %s", dialect, who, error)
        self.refusals.append(
            {
                "at": round(time.time(), 2),
                "number": -next(self._refused),
                "robot": who,
                "policy": "",
                "code": code,
                "message": str(error)[:_LONGEST],
            }
        )

    def status(self) -> dict[str, Any]:
        """The clients that are connected now, for people."""
        return {
            "max_robots": self.config.max_robots,
            "clients": [
                {
                    "id": each.id,
                    "name": each.name,
                    "dialect": each.dialect,
                    "policy": each.policy or "",
                }
                for each in self._sessions
            ],
        }

    def session(self, id: str) -> RobotSession | None:
        """The session of a robot by what the broker calls it, if it comes through this gateway."""
        return next((each for each in self._sessions if each.id == id), None)

    def connect_operator(self, broker: str, within_s: float) -> ZmqPolicyClient:
        """A client for asking a broker about itself; its calls take as long at most."""
        return ZmqPolicyClient(
            broker,
            robot="gateway",
            timeout_s=within_s,
            connect_timeout_s=within_s,
            key=self.config.key,
        )

    def close(self) -> None:
        """End all sessions; calls that are under way raise `ClientClosed`."""
        for session in list(self._sessions):
            session.close()

    def flush(self) -> None:
        """Send the traces that are left; may take seconds."""
        if self.tracing is not None:
            self.tracing.close()

    def _forget(self, session: RobotSession) -> None:
        self._sessions.discard(session)
        self.metrics.closed(session.dialect)


_mapping_of = functools.lru_cache(maxsize=256)(read_mapping)
