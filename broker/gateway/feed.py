"""What the broker says of itself, asked for once for everyone who looks, with its recent past."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from client import ZmqPolicyClient, errors

logger = logging.getLogger("gateway")

WATCHED_S, UNWATCHED_S = 1.0, 5.0  # between two questions
FRESH_S = 0.9  # an answer is good for so long, however many ask
TIMEOUT_S = 2.0
_POINTS = 900
_ERRORS = 100


@dataclass
class History:
    """Figures over time, and the latest errors, out of one status after the other."""

    points: deque[dict[str, float]] = field(default_factory=lambda: deque(maxlen=_POINTS))
    errors: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_ERRORS))
    _answered: float = 0.0
    _uptime_s: float = float("inf")
    _told: int = 0  # number of the last error

    def add(self, status: Mapping[str, Any], now: float) -> None:
        """Take in a status (`broker.status.report`). `now` is the time of day, in seconds."""
        answered = status["counters"].get("answered", 0)
        is_another = status["uptime_s"] < self._uptime_s
        before = self.points[-1]["at"] if self.points and not is_another else None
        rate = 0.0 if before is None else (answered - self._answered) / max(now - before, 1e-3)
        worker, queue = (status["latency_ms"][name] for name in ("worker", "queue"))
        self.points.append(
            {
                "at": round(now, 2),
                "rate": round(max(rate, 0.0), 2),
                "p50": worker["p50"],
                "p95": worker["p95"],
                "queue_p95": queue["p95"],
                "waiting": float(sum(status["queues"].values())),
            }
        )
        if is_another:
            self._told = 0
        for error in status["errors"]:
            if error["number"] > self._told:
                self._told = error["number"]
                self.errors.append({**error, "at": round(now, 2)})
        self._answered, self._uptime_s = answered, status["uptime_s"]


class Feed:
    """The broker's status: at most one question a second, and fewer while nobody looks."""

    def __init__(self, connect: Callable[[float], ZmqPolicyClient]) -> None:
        """`connect` makes a client, waiting at most so many seconds for the broker."""
        self.history = History()
        self._connect = connect
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="status")
        self._client: ZmqPolicyClient | None = None
        self._lock = asyncio.Lock()
        self._asked_at = float("-inf")
        self._status: dict[str, Any] = {}
        self._trouble = ""

    async def status(self) -> tuple[dict[str, Any], str]:
        """The broker's status (`broker.status.report`), and why it is old or empty, if it is."""
        async with self._lock:
            if time.monotonic() - self._asked_at > FRESH_S:
                await self._refresh()
            return self._status, self._trouble

    async def run(self) -> None:
        """Keep the history going while nobody looks."""
        while True:
            await self.status()
            await asyncio.sleep(UNWATCHED_S)

    def close(self) -> None:
        """End a question that is under way."""
        if self._client is not None:
            self._client.close()
        self._thread.shutdown(wait=False)

    async def _refresh(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            self._status = await loop.run_in_executor(self._thread, self._ask)
            self._trouble = ""
            self.history.add(self._status, time.time())
        except errors.Forbidden as error:
            self._status = {}
            self._trouble = (
                f"the broker does not tell: {error}. Give the gateway an operator's key "
                "(python -m scripts.keys make NAME --role operator, and key=FILE)"
            )
        except errors.PolicyError as error:
            self._trouble = str(error)
        self._asked_at = time.monotonic()

    def _ask(self) -> dict[str, Any]:
        if self._client is None:
            self._client = self._connect(TIMEOUT_S)
        return self._client.status()
