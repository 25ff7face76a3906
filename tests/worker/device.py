"""An inference thread whose jobs and reports are the test's."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence

from worker.answers import Job
from worker.inference import Broken, InferenceThread, Report
from worker.policy import Policy
from worker.robots.guards import Guards

WAIT_S = 60.0


class Device:
    """Gives jobs to an inference thread, and gets what it makes of them."""

    def __init__(
        self,
        policy: Policy,
        largest_batch: int = 1,
        batch_wait_s: float = 0.0,
        guards: Guards | None = None,
    ) -> None:
        self.jobs: deque[Job] = deque()
        self.is_open = True
        self.begun: list[float] = []  # what each inference was expected to take, in seconds
        self._is_news = False  # since the thread waited last
        self._reports: deque[Report] = deque()
        self._changed = threading.Condition()
        self._thread = InferenceThread(policy, self, largest_batch, batch_wait_s, guards)

    def start(self) -> None:
        self._thread.start()

    def give(self, job: Job) -> None:
        with self._changed:
            self.jobs.append(job)
            self._is_news = True
            self._changed.notify_all()

    def close(self) -> None:
        """No more jobs come; wait for the thread to end."""
        with self._changed:
            self.is_open, self._is_news = False, True
            self._changed.notify_all()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def reports(self, count: int) -> list[Report]:
        """The next reports; none of them says that the policy is broken, except the last."""
        taken: list[Report] = []
        with self._changed:
            while len(taken) < count:
                assert self._changed.wait_for(lambda: self._reports, WAIT_S), "it is silent"
                taken.append(self._reports.popleft())
                assert not isinstance(taken[-1], Broken) or len(taken) == count, taken[-1]
        return taken

    # What the thread calls.

    def wait(self, until: float) -> None:
        left_s = min(until - time.monotonic(), WAIT_S)
        with self._changed:
            if left_s > 0:
                self._changed.wait_for(lambda: self._is_news, left_s)
                self._is_news = False

    def begin(self, usual_s: float) -> None:
        self.begun.append(usual_s)

    def report(self, reports: Sequence[Report]) -> None:
        with self._changed:
            self._reports.extend(reports)
            self._changed.notify_all()
