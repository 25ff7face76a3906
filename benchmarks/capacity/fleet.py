"""Paced robots and timed workers around a broker's real core, on simulated time."""

from __future__ import annotations

import heapq
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.load.kinds import Kind
from broker.config import BrokerConfig
from broker.core import Core
from broker.events import Event, RobotMessage, Tick, ToRobot, ToWorker, WorkerMessage
from client.wire import RequestId

LINK_S = 0.0005  # each way
JITTER = 0.1  # of an inference's time, either way
PAYLOAD = (bytes(1000),)  # shared by all, so memory is that of bookkeeping


@dataclass
class Counts:
    """What one fleet did after `count_from`, the moment that its counting began."""

    count_from: float
    events: Counter[str] = field(default_factory=Counter)
    spent_s: dict[str, float] = field(
        default_factory=dict
    )  # of processor, inside the core, by kind of event
    outcomes: Counter[str] = field(default_factory=Counter)
    took_ms: list[float] = field(default_factory=list)


class Fleet:
    """Paced robots and timed workers around one core, on simulated time in seconds."""

    def __init__(self, kinds: Sequence[Kind], workers: int, inference_s: float, seed: int) -> None:
        self.now = 0.0
        self.counts = Counts(float("inf"))
        self._core = Core(BrokerConfig(), epoch=1, now=0.0)
        self._kinds, self._inference_s = kinds, inference_s
        self._dice = random.Random(seed)
        self._coming: list[tuple[float, int, Callable[[], Event]]] = []
        self._plans = 0
        self._asked: dict[RequestId, float] = {}
        self._sequences = [0] * len(kinds)
        for number in range(workers):
            self._join(b"worker %d" % number)
        for number, kind in enumerate(kinds):
            self._plan_ask(number, self._dice.random() * kind.period_s)

    def run_until(self, end: float) -> None:
        """Play everything up to a moment."""
        while True:
            wake = self._core.wake_at()
            if self._coming and self._coming[0][0] <= wake:
                if self._coming[0][0] > end:
                    break
                self.now, _, make = heapq.heappop(self._coming)
                self._handle(make())
            elif wake > end:
                break
            else:
                self.now = max(self.now, wake)
                self._handle(Tick())
        self.now = end

    @property
    def unanswered(self) -> int:
        """Requests that wait for their one answer now."""
        return len(self._asked)

    def _handle(self, event: Event) -> None:
        # Processor time: what other programs take meanwhile is no cost of the core's.
        started = time.thread_time()
        commands = self._core.handle(event, self.now)
        took_s = time.thread_time() - started
        if self.now >= self.counts.count_from:
            name = "tick"
            if isinstance(event, (RobotMessage, WorkerMessage)):
                name = str(event.header["kind"])
            self.counts.events[name] += 1
            self.counts.spent_s[name] = self.counts.spent_s.get(name, 0.0) + took_s
        for command in commands:
            if isinstance(command, ToRobot):
                self._hear(command)
            elif isinstance(command, ToWorker):
                self._obey(command)

    def _hear(self, command: ToRobot) -> None:
        header = command.header
        # A second answer to one request would be a KeyError here.
        asked_at = self._asked.pop(header["id"])
        if self.now < self.counts.count_from:
            return
        took_s = self.now - asked_at + 2 * LINK_S
        kind = self._kinds[int.from_bytes(header["id"].client, "big")]
        outcome = str(header.get("code", "in time"))
        if outcome == "in time":
            self.counts.took_ms.append(took_s * 1e3)
            if took_s > kind.deadline_s:
                outcome = "late"
        self.counts.outcomes[outcome] += 1

    def _obey(self, command: ToWorker) -> None:
        header, worker = command.header, command.worker
        if header["kind"] == "infer":
            fields = {"kind": "result", "id": header["id"], "attempt": header["attempt"]}
            takes_s = self._inference_s * self._dice.uniform(1.0 - JITTER, 1.0 + JITTER)
            self._plan(takes_s + 2 * LINK_S, lambda: _from_worker(worker, {**fields, "timing": {}}))
        elif header["kind"] == "heartbeat":
            beat, held = header["n"], self._core.pool.by_id[worker].in_hand
            self._plan(
                2 * LINK_S,
                lambda: _from_worker(worker, {"kind": "heartbeat", "n": beat, "ids": list(held)}),
            )

    def _join(self, worker: bytes) -> None:
        hello = {"kind": "hello", "policy": "noop", "incarnation": worker.ljust(16)[:16]}
        ready = {"kind": "ready", "slots": 1, "inference_ms": self._inference_s * 1e3}
        for fields in (hello, ready):
            self._handle(_from_worker(worker, fields))

    def _plan_ask(self, number: int, after_s: float) -> None:
        def ask() -> Event:
            kind = self._kinds[number]
            self._sequences[number] += 1
            self._plan_ask(number, kind.period_s)
            client = number.to_bytes(16, "big")
            id = RequestId(client, self._sequences[number])
            self._asked[id] = self.now
            header = {"v": 1, "kind": "infer", "id": id, "policy": "noop", "session": "s"}
            header["deadline_ms"] = kind.deadline_s * 1e3
            return RobotMessage(client[-5:], (client[-5:], b""), header, PAYLOAD)

        self._plan(after_s, ask)

    def _plan(self, after_s: float, make: Callable[[], Event]) -> None:
        self._plans += 1
        heapq.heappush(self._coming, (self.now + after_s, self._plans, make))


def _from_worker(worker: bytes, fields: dict[str, Any]) -> WorkerMessage:
    return WorkerMessage(worker, {"v": 1, "epoch": 1, **fields}, PAYLOAD)
