"""Asks the new version what the old one was asked, and compares both answers."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, deque
from typing import Any

import numpy as np

from client import ZmqPolicyClient
from client.errors import ClientClosed, PolicyError, ProtocolError
from client.tap import topic
from scripts.local.timing import percentile
from scripts.recording.asking_again import ask_again, why_left_out
from scripts.recording.comparison import compare
from scripts.recording.exchange import Exchange
from scripts.recording.listener import Listener, NoTap
from scripts.recording.pairing import Pairing
from scripts.rollout.config import RolloutConfig
from scripts.rollout.facts import Compared

ROBOT = "rollout-shadow"
CONNECT_S = 5.0  # to the tap
_LOOK_MS = 100
_TIMEOUT_S = 30.0  # of one answer: evaluations wait for live robots
_KEPT = 1000  # latencies
_ACTIONS = "actions"


class Sum:
    """The result of all comparisons so far."""

    def __init__(self) -> None:
        self.asked = 0
        self.failed: Counter[str] = Counter()
        self.largest: float | None = None
        self.mean: float | None = None
        self.other = ""
        self._old_ms: deque[float] = deque(maxlen=_KEPT)
        self._new_ms: deque[float] = deque(maxlen=_KEPT)

    def add_failure(self, code: str) -> None:
        """The new version did not answer."""
        self.asked += 1
        self.failed[code] += 1

    def add(self, old: dict[str, Any], new: dict[str, Any], times_ms: tuple[float, float]) -> None:
        """Both have answered; `times_ms` are the times of the old version and of the new one."""
        self.asked += 1
        difference = compare({_ACTIONS: old.get(_ACTIONS)}, {_ACTIONS: new.get(_ACTIONS)})
        self.other = difference.others.get(_ACTIONS, self.other)
        if _ACTIONS not in difference.others:
            mean = 0.0
            if _ACTIONS in difference.largest:
                distance = np.abs(np.subtract(old[_ACTIONS], new[_ACTIONS], dtype=np.float64))
                mean = float(np.nan_to_num(distance, nan=np.inf).mean())
            self.largest = max(self.largest or 0.0, difference.largest.get(_ACTIONS, 0.0))
            self.mean = max(self.mean or 0.0, mean)
        self._old_ms.append(times_ms[0])
        self._new_ms.append(times_ms[1])

    def compared(self) -> Compared:
        """The result as one of the facts."""
        p95 = percentile(95)
        has_times = bool(self._old_ms)
        return Compared(
            asked=self.asked,
            failed=dict(self.failed),
            largest=self.largest,
            mean=self.mean,
            other=self.other,
            old_p95_ms=p95(list(self._old_ms)) if has_times else 0.0,
            new_p95_ms=p95(list(self._new_ms)) if has_times else 0.0,
        )


class Shadow(threading.Thread):
    """Follows the tap, and asks the new version what passes there.

    If it cannot keep up with the robots, the tap drops the rest. Its own requests are evaluations,
    so that no robot waits for them.
    """

    def __init__(self, config: RolloutConfig, stable: str, candidate: str) -> None:
        """Connect to the tap; call `start` once the new version is ready.

        Raises:
            NoTap: no tap answers there.
        """
        super().__init__(name="shadow", daemon=True)
        self._config, self._stable, self._candidate = config, stable, candidate
        self._sum, self._lock = Sum(), threading.Lock()
        self._is_over = threading.Event()
        self._dice = random.Random(0)  # which requests are taken need not be a secret
        self._client: ZmqPolicyClient | None = None
        self.trouble = ""  # why nothing more is compared; empty: nothing is wrong
        self._listener = Listener(config.tap or "", [topic(stable)])
        try:
            self._listener.wait(CONNECT_S)
        except NoTap:
            self._listener.close()
            raise

    def compared(self) -> Compared:
        """The result so far."""
        with self._lock:
            return self._sum.compared()

    def run(self) -> None:
        """Compare until `close` is called."""
        pairing = Pairing()
        try:
            with ZmqPolicyClient(
                self._config.broker,
                policy=self._candidate,
                robot=ROBOT,
                traffic="evaluation",
                timeout_s=_TIMEOUT_S,
                connect_timeout_s=_TIMEOUT_S,
                key=self._config.key,
            ) as client:
                self._client = client
                while not self._is_over.is_set():
                    self._take(pairing, client)
        except ClientClosed:
            pass  # by `close`
        except (PolicyError, ValueError) as error:
            self.trouble = f"{type(error).__name__}: {error}"
        finally:
            pairing.close()
            self._listener.close()

    def close(self) -> None:
        """Stop comparing; the result so far remains."""
        self._is_over.set()
        if self._client is not None:
            self._client.close()  # a request on its way ends
        if self.ident is None:
            self._listener.close()
        else:
            self.join(_TIMEOUT_S)

    def _take(self, pairing: Pairing, client: ZmqPolicyClient) -> None:
        for message in self._listener.take(_LOOK_MS):
            exchange = pairing.take(message)
            if exchange is not None and self._is_wanted(exchange) and not self._is_over.is_set():
                self._ask(exchange, client)
        pairing.tidy()

    def _is_wanted(self, exchange: Exchange) -> bool:
        # A request that was moved to the new version was not answered by the old one.
        is_old, share = exchange.policy == self._stable, self._config.shadow.share
        return is_old and why_left_out(exchange) is None and self._dice.random() < share

    def _ask(self, exchange: Exchange, client: ZmqPolicyClient) -> None:
        try:
            answer, timing = ask_again(client, exchange)
        except ConnectionError:
            time.sleep(_LOOK_MS / 1e3)  # a broker that restarts says nothing about a version
        except (ClientClosed, ProtocolError):
            raise
        except PolicyError as error:
            with self._lock:
                self._sum.add_failure(error.code())
        else:
            times = exchange.timing.get("worker_ms", 0.0), timing.get("worker_ms", 0.0)
            with self._lock:
                self._sum.add(exchange.result or {}, answer, times)
