"""Robots under way: each asks again and again until all are told to end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from tests.e2e.stack import WAIT_S, eventually

Ask = Callable[[int], None]
"""Asks once, and checks the answer. It is given how many its robot has had."""
Connect = Callable[[], AbstractContextManager[Ask]]

_PAUSE_S = 0.01  # between two askings: processes that start meanwhile need the cores too


class Robots:
    """A context in which each robot connects on a thread of its own, and asks until it is left.

    Leaving it raises what a robot got instead of an answer, if the test has not failed already.

    Attributes:
        answers: how many each has had.
        errors: what they got instead of one.
    """

    def __init__(self, robots: Sequence[Connect]) -> None:
        self.answers = [0] * len(robots)
        self.errors: list[BaseException] = []
        self._is_over = threading.Event()
        self._threads = [
            threading.Thread(target=self._work, args=(number, connect))
            for number, connect in enumerate(robots)
        ]

    def _work(self, number: int, connect: Connect) -> None:
        try:
            with connect() as ask:
                while not self._is_over.is_set():
                    ask(self.answers[number])
                    self.answers[number] += 1
                    self._is_over.wait(_PAUSE_S)
        except BaseException as error:  # noqa: BLE001 (the test raises it)
            self.errors.append(error)

    def go_on(self, within_s: float = WAIT_S) -> None:
        """Return once each has had ten more answers."""
        wanted = [count + 10 for count in self.answers]
        eventually(
            lambda: self.errors or all(a >= b for a, b in zip(self.answers, wanted, strict=True)),
            "every robot is answered again",
            within_s,
        )
        self._check()

    def _check(self) -> None:
        if self.errors:
            raise self.errors[0]

    def __enter__(self) -> Robots:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        if kind is None:
            self._check()
