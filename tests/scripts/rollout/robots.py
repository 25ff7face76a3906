"""Robots in short episodes, which see whether an answer is theirs and an episode has one version.

`policies.Arm` has to be what answers.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from client import ZmqPolicyClient
from client.errors import PolicyError

DEADLINE_S = 60.0


@dataclass
class Seen:
    """What one robot has seen.

    Attributes:
        took: (when it was asked by `time.monotonic`, seconds until the answer, version).
        errors: by class.
        wrong: answers to another observation.
        episodes: that have ended, by the version of their answers.
        mixed: episodes that were answered by more than one.
    """

    took: list[tuple[float, float, str]] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    wrong: int = 0
    episodes: Counter[str] = field(default_factory=Counter)
    mixed: int = 0


class Robot(threading.Thread):
    """Asks until it is told to stop, in episodes of so many requests."""

    def __init__(
        self,
        number: int,
        brokers: Sequence[int],
        policy: str,
        *,
        requests: int = 5,
        period_s: float = 0.02,
        is_over: threading.Event,
    ) -> None:
        """Start with `start`; `brokers` are ports of frontends on this machine."""
        super().__init__(name=f"robot {number}", daemon=True)
        self.seen = Seen()
        self._number, self._policy, self._is_over = number, policy, is_over
        self._hosts = [f"127.0.0.1:{port}" for port in brokers]
        self._requests, self._period_s = requests, period_s

    def run(self) -> None:
        """One episode after the other."""
        x = self._number * 1e6
        with ZmqPolicyClient(
            self._hosts, policy=self._policy, robot=self.name, timeout_s=DEADLINE_S
        ) as client:
            while not self._is_over.is_set():
                versions = set()
                for _ in range(self._requests):
                    x += 1.0
                    versions |= self._ask(client, x)
                    self._is_over.wait(self._period_s)
                self._end(client, versions)

    def _ask(self, client: ZmqPolicyClient, x: float) -> set[str]:
        began = time.monotonic()
        try:
            answer = client.infer({"x": x}, deadline_s=DEADLINE_S)
        except PolicyError as error:
            self.seen.errors[type(error).__name__] += 1
            return set()
        self.seen.wrong += answer["x"] != x
        self.seen.took.append((began, time.monotonic() - began, answer["version"]))
        return {answer["version"]}

    def _end(self, client: ZmqPolicyClient, versions: set[str]) -> None:
        self.seen.mixed += len(versions) > 1
        self.seen.episodes.update(versions)
        try:
            client.reset()
        except PolicyError as error:
            self.seen.errors[type(error).__name__] += 1


class Robots:
    """Several at once."""

    def __init__(self, count: int, brokers: Sequence[int], policy: str, **habits: float) -> None:
        """They begin at once; `habits` are a robot's `requests` and `period_s`."""
        self._is_over = threading.Event()
        requests, period_s = int(habits.get("requests", 5)), habits.get("period_s", 0.02)
        self.all = [
            Robot(
                number,
                brokers,
                policy,
                requests=requests,
                period_s=period_s,
                is_over=self._is_over,
            )
            for number in range(count)
        ]
        for robot in self.all:
            robot.start()

    def stop(self) -> Seen:
        """End them; returns what all have seen."""
        self._is_over.set()
        for robot in self.all:
            robot.join(DEADLINE_S)
        return self.seen()

    def seen(self) -> Seen:
        """What all have seen so far; a robot that never came back is an error of its own."""
        together = Seen()
        for robot in self.all:
            seen = robot.seen
            together.took += list(seen.took)
            together.errors.update(seen.errors)
            together.episodes.update(seen.episodes)
            together.wrong += seen.wrong
            together.mixed += seen.mixed
            if self._is_over.is_set() and robot.is_alive():
                together.errors["never came back"] += 1
        together.took.sort()
        return together
