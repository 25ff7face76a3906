"""The broker and the workers that an evaluation asks, as processes that can be struck."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from scripts.local.deployment import Deployment, Place
from scripts.local.processes import ProcessError, Processes
from scripts.tiny.trial import FAULT_STEP, Condition, Fault

_BUSY_CPU_S = 0.01
"""A worker that has used so much since a request was sent is the one that computes it."""
_LONGEST_WATCH_S = 30.0


class Servers:
    """A broker and workers with the settings of one condition, on free loopback ports.

    To be used from the main thread, inside the context of `processes`.
    """

    def __init__(self, processes: Processes, condition: Condition, settings: Sequence[str]) -> None:
        """Start them; `settings` are keys of `python -m worker` beside the condition's own."""
        self._fault = condition.fault
        self._deployment = Deployment(
            processes,
            2 if self._fault is Fault.worker_dies else 1,
            ["runtime.threads=1", *settings, *condition.server_settings],
        )
        self.port = self._deployment.port
        self._has_struck = False
        self._victims: list[Place] = []
        self._watch: threading.Thread | None = None

    def wait_ready(self) -> None:
        """Start what was killed and return when all are ready.

        Raises:
            ProcessError: one is not.
        """
        if self._watch is not None:
            self._watch.join()
            self._watch = None
        for victim in self._victims:
            victim.start()
        self._victims.clear()
        self._has_struck = False
        self._deployment.wait_ready()

    def before_request(self, step: int) -> None:
        """Bring the condition's fault about if it is time for it."""
        if self._has_struck or step < FAULT_STEP:
            return
        self._has_struck = True
        if self._fault is Fault.broker_restarts:
            self._deployment.broker.kill()
            self._deployment.broker.start()
        elif self._fault is Fault.worker_dies:
            workers = self._deployment.workers
            used = [worker.process.cpu_seconds() for worker in workers]
            self._watch = threading.Thread(target=self._kill_the_busy, args=[used], daemon=True)
            self._watch.start()

    def check(self) -> None:
        """Do nothing if the episode just run was disturbed as it should have been.

        Raises:
            ProcessError: it was not, so that its outcome says nothing.
        """
        if self._watch is not None:
            self._watch.join()
        was_killed = bool(self._victims) or self._fault is not Fault.worker_dies
        if self._fault is not None and not (self._has_struck and was_killed):
            raise ProcessError(f"no {self._fault} happened in this episode")

    def _kill_the_busy(self, used: Sequence[float]) -> None:
        """Kill the worker that computes, as seen from what each had `used` before, in CPU s."""
        until = time.monotonic() + _LONGEST_WATCH_S
        while time.monotonic() < until:
            for worker, before in zip(self._deployment.workers, used, strict=True):
                if worker.process.cpu_seconds() - before >= _BUSY_CPU_S:
                    worker.kill()
                    self._victims.append(worker)
                    return
            time.sleep(0.001)
