"""The broker and the workers of the demo, and what befalls them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from scripts.local.processes import Process, Processes, free_ports

COMPUTED_S = 0.005
"""CPU time into a request when its worker is killed; the model takes several times as much."""
PATIENCE_S = 30.0
UNANSWERED = "That request had no answer yet when the episode ended."


class Kill:
    """SIGKILL for the worker that computes the first request from control step `at_step` on."""

    def __init__(self, workers: list[Process], at_step: int) -> None:
        self.at_step = at_step
        self.struck_at: int | None = None
        """The control step of the request that was chosen."""
        self.victim: Process | None = None
        self._workers = workers

    def before_request(self, step: int) -> None:
        """If this is the request that was chosen, strike while it is computed."""
        if step < self.at_step or self.struck_at is not None:
            return
        self.struck_at = step
        used = [worker.cpu_seconds() for worker in self._workers]
        threading.Thread(target=self._strike, args=[used], daemon=True).start()

    def before_step(self) -> None:
        """Nothing is to be done in the control loop."""

    def _strike(self, used: list[float]) -> None:
        """Kill the first worker that has computed for COMPUTED_S since its CPU time was `used`."""
        give_up = time.monotonic() + PATIENCE_S
        while self.victim is None and time.monotonic() < give_up:
            time.sleep(0.001)
            for worker, then in zip(self._workers, used, strict=True):
                if worker.cpu_seconds() - then >= COMPUTED_S:
                    worker.kill()
                    self.victim = worker
                    return

    def tell(self, took_ms: Sequence[float]) -> str:
        """What was done, and how the request at that step and those after it fared."""
        if self.victim is None:
            return ""
        blow = (
            f"{self.victim.name} (process {self.victim.pid}) was killed with SIGKILL while it "
            f"computed the request of step {self.struck_at}."
        )
        if not took_ms:
            return f"{blow} {UNANSWERED}"
        return (
            f"{blow} The other worker answered that one, {took_ms[0]:.0f} ms after it was made, "
            f"and the {len(took_ms) - 1} after it."
        )


class Restart:
    """SIGKILL for the broker at the first request from `at_step` on, and a new one in its place."""

    def __init__(self, servers: Servers, at_step: int) -> None:
        self.at_step = at_step
        self.struck_at: int | None = None
        """The control step of the request that was chosen."""
        self.victim: Process | None = None
        self._servers = servers
        self._is_replaced = False

    def before_request(self, step: int) -> None:
        """If this is the request that was chosen, it finds no broker."""
        if step >= self.at_step and self.struck_at is None:
            self.struck_at = step
            self._servers.broker.kill()
            self.victim = self._servers.broker

    def before_step(self) -> None:
        """In the control loop, whose thread has to start all processes: replace the broker."""
        if self.victim is not None and not self._is_replaced:
            self._is_replaced = True
            self._servers.start_broker("broker 2")

    def tell(self, took_ms: Sequence[float]) -> str:
        """What was done, and how the request at that step and those after it fared."""
        if self.victim is None:
            return ""
        blow = (
            f"The broker (process {self.victim.pid}) was killed with SIGKILL before the request of "
            f"step {self.struck_at}, and another was started on the same ports."
        )
        if not took_ms:
            return f"{blow} {UNANSWERED}"
        return (
            f"{blow} That request was answered after {took_ms[0]:.0f} ms, and the "
            f"{len(took_ms) - 1} after it were answered too."
        )


class Servers:
    """A broker and two workers, none ready yet."""

    def __init__(self, processes: Processes) -> None:
        self.port, back = free_ports(2)
        self._processes, self._backend = processes, f"tcp://127.0.0.1:{back}"
        self.start_broker("broker")
        worker = ["env=aloha_sim", "model=tiny", f"broker={self._backend}"]
        # With more threads than free cores every barrier waits for the scheduler: 50 ms become
        # seconds.
        worker.append("runtime.threads=1")
        self.workers = [processes.start(f"worker {number}", "worker", *worker) for number in (1, 2)]
        self.broker.wait_ready()

    def start_broker(self, name: str) -> None:
        """Start one on the ports of the first."""
        frontend = f"frontend=tcp://127.0.0.1:{self.port}"
        self.broker = self._processes.start(name, "broker", frontend, f"backend={self._backend}")
