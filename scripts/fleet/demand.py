"""What the brokers say of each policy, asked for again and again by a thread of its own."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from client import ZmqPolicyClient
from client.errors import PolicyError
from scripts.fleet.config import BrokerSettings
from scripts.fleet.scaling import Demand

logger = logging.getLogger("fleet")

_INTERVAL_S = 0.5
_TIMEOUT_S = 2.0


def demand_of(reports: Sequence[Mapping[str, Any]], policy: str) -> Demand | None:
    """What all brokers together say of a policy; None if there are none, or none knows it.

    `reports` are brokers' status. Each worker is registered with every broker, which has a share
    of its slots in hand, and a robot asks one broker.
    """
    rows = [report["demand"][policy] for report in reports if policy in report["demand"]]
    if not rows:
        return None
    asked = [row["asked_s_ago"] for row in rows if row["asked_s_ago"] is not None]
    return Demand(
        waiting=sum(row["waiting"] for row in rows),
        wait_s=max(row["wait_ms"] for row in rows) / 1e3,
        asked_s_ago=min(asked, default=math.inf),
        ready=max(row["ready"] for row in rows),
        slots=max(row["slots"] for row in rows),
        in_hand=sum(row["in_hand"] for row in rows),
    )


class Watch(threading.Thread):
    """Asks every broker for its status, every half second."""

    def __init__(self, brokers: Mapping[str, BrokerSettings], key: str | None) -> None:
        """Start with `start`; `key` is an operator's key file."""
        super().__init__(name="broker watch", daemon=True)
        self._brokers, self._key = brokers, key
        self._reports: dict[str, Mapping[str, Any]] = {}
        self._troubles: dict[str, str] = dict.fromkeys(brokers, "not asked yet")

    def reports(self) -> list[Mapping[str, Any]]:
        """The latest of each broker that answers."""
        return list(self._reports.values())

    def troubles(self) -> dict[str, str]:
        """Why a broker does not answer, of those that don't."""
        return dict(self._troubles)

    def run(self) -> None:
        """For ever."""
        clients: dict[str, ZmqPolicyClient] = {}
        while True:
            for name, broker in self._brokers.items():
                try:
                    if name not in clients:
                        clients[name] = self._connect(broker)
                    self._reports[name] = clients[name].status()
                    self._troubles.pop(name, None)
                except (PolicyError, ValueError) as error:
                    if name not in self._troubles:
                        logger.warning("the broker %s cannot be asked: %s", name, error)
                    self._troubles[name] = f"{type(error).__name__}: {error}"
                    self._reports.pop(name, None)
            time.sleep(_INTERVAL_S)

    def _connect(self, broker: BrokerSettings) -> ZmqPolicyClient:
        return ZmqPolicyClient(
            broker.host,
            broker.frontend,
            timeout_s=_TIMEOUT_S,
            connect_timeout_s=_TIMEOUT_S,
            robot="fleet",
            key=self._key,
        )
