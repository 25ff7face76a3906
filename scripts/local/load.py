"""Robots that ask at a steady pace and check that every answer belongs to what they asked.

The workers serve `policy=echo`, whose answer is a function of the observation, or the robots are
given another `check`.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from client import ZmqPolicyClient
from client.errors import PolicyError
from worker.policies.echo import fingerprint

RIGHT, WRONG, SILENT, UNTYPED = "right", "wrong", "silence", "untyped"
SIDES = (8, 64, 224)  # pixels: small arrays travel inside the body, large ones as own frames
_TICK_S = 0.005
_NOTICEABLE_S = 0.02


@dataclass(frozen=True)
class Outcome:
    """What became of one request. Times are `time.monotonic()`'s.

    `kind` is "right", "wrong", the name of the error's class, "silence" where the client gave
    up by itself (a broker that is alive and reachable answers before that), or "untyped" for an
    exception that is not a `PolicyError`.
    """

    robot: int
    started: float
    ended: float
    deadline_s: float
    kind: str
    message: str = ""

    @property
    def took_s(self) -> float:
        """From the call to its answer or error."""
        return self.ended - self.started


class Quota:
    """How many requests all robots together may still make."""

    def __init__(self, requests: int) -> None:
        self._left = requests
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether there was one left."""
        with self._lock:
            self._left -= 1
            return self._left >= 0


def make_observation(dice: random.Random, number: int, sides: Sequence[int] = SIDES) -> Any:
    """An observation like no other: image of (side, side, 3) uint8, state of (14,) float32."""
    rng = np.random.default_rng(dice.getrandbits(64))
    side = dice.choice(sides)
    return {
        "state": rng.random(14, np.float32),
        "images": {"cam_high": rng.integers(0, 256, (side, side, 3), np.uint8)},
        "prompt": f"request {number}",
        "number": number,
    }


def is_answer_to(observation: dict[str, Any], result: dict[str, Any]) -> bool:
    """Whether this is the answer of `policy=echo` to this observation and to no other."""
    expected, actions = fingerprint(observation), result["actions"]
    echoed = fingerprint(result.get("observation", {}))
    return bool(actions.size and np.all(actions == float(expected)) and echoed == expected)


@dataclass(frozen=True)
class Habits:
    """How a robot asks: seconds between requests (0: back to back), and how long it may wait."""

    period_s: float = 0.1
    deadlines_s: Sequence[float] = (5.0,)
    sides: Sequence[int] = SIDES
    policy: str | None = None
    check: Callable[[dict[str, Any], dict[str, Any]], bool] = is_answer_to


class Robot(threading.Thread):
    """Asks until `more` says no. `asking_since` is when its request in flight began, or None."""

    def __init__(
        self,
        number: int,
        port: int | Sequence[int],
        seed: int,
        habits: Habits,
        more: Callable[[], bool],
        report: Callable[[Outcome], None],
    ) -> None:
        super().__init__(name=f"robot {number}", daemon=True)
        self.number = number
        self.asking_since: float | None = None
        self.longest_s = max(habits.deadlines_s)
        self._ports = [port] if isinstance(port, int) else port  # of its brokers, in order
        self._habits, self._more, self._report = habits, more, report
        self._dice = random.Random(f"{seed} {number}")

    def run(self) -> None:
        """Ask, wait for the rest of the period, ask again."""
        self._pause(self._dice.random() * self._habits.period_s)
        policy, ports = self._habits.policy, self._ports
        hosts = [f"127.0.0.1:{port}" for port in ports]
        with ZmqPolicyClient(hosts, policy=policy, robot=self.name) as client:
            asked = 0
            while self._more():
                outcome = self._ask(client, asked)
                self._report(outcome)
                asked += 1
                self._pause(outcome.started + self._habits.period_s - time.monotonic())

    def _ask(self, client: ZmqPolicyClient, asked: int) -> Outcome:
        observation = make_observation(self._dice, asked, self._habits.sides)
        deadline_s = self._dice.choice(self._habits.deadlines_s)
        started = self.asking_since = time.monotonic()
        kind, message = WRONG, ""
        try:
            result = client.infer(observation, deadline_s=deadline_s)
            ended = time.monotonic()
            if self._habits.check(observation, result):
                kind = RIGHT
        except PolicyError as error:
            ended = time.monotonic()
            message = str(error)
            gave_up = message.startswith("no answer from")
            kind = SILENT if gave_up else type(error).__name__
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
            ended = time.monotonic()
            kind, message = UNTYPED, repr(error)
        self.asking_since = None
        return Outcome(self.number, started, ended, deadline_s, kind, message)

    @staticmethod
    def _pause(seconds: float) -> None:
        if seconds > 0:
            time.sleep(seconds)


class Metronome(threading.Thread):
    """Notes when the machine was too busy to run this process, so that no peer is blamed for it."""

    def __init__(self) -> None:
        super().__init__(name="metronome", daemon=True)
        self._stalls: list[tuple[float, float]] = []

    def run(self) -> None:
        """For ever."""
        while True:
            due = time.monotonic() + _TICK_S
            time.sleep(_TICK_S)
            late = time.monotonic() - due
            if late > _NOTICEABLE_S:
                self._stalls.append((due, late))

    def stalled_s(self, start: float, end: float) -> float:
        """Seconds for which a thread that wanted to run did not, between two moments."""
        return sum(late for due, late in list(self._stalls) if due < end and due + late > start)
