"""A broker and its workers on loopback, each of which can be killed, frozen and started again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

from client import ZmqPolicyClient
from scripts.local.link import Link, Network
from scripts.local.processes import Process, Processes, free_ports

READY_S = 60.0


class Place:
    """Where one process runs. Each of its lives logs to a file of its own."""

    def __init__(self, processes: Processes, name: str, module: str, *arguments: str) -> None:
        """Nothing runs yet."""
        self.name = name
        self.lives = 0
        self._processes, self._module, self._arguments = processes, module, arguments
        self._process: Process | None = None

    @property
    def process(self) -> Process:
        """The one that runs, or ran last.

        Raises:
            RuntimeError: none was started yet.
        """
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process

    def start(self) -> Process:
        """Start a new life; the process need not be ready when this returns."""
        self.lives += 1
        life = f"{self.name} life {self.lives}"
        self._process = self._processes.start(life, self._module, *self._arguments)
        return self._process

    def kill(self) -> float:
        """Send SIGKILL; returns the `time.monotonic()` at which it was sent."""
        struck = time.monotonic()
        self.process.kill()
        return struck

    def freeze(self) -> None:
        """SIGSTOP."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.kill(self.process.pid, signal.SIGCONT)


class Deployment:
    """One broker and some workers, to be used inside the context of `processes`.

    Attributes:
        port: where robots find the broker itself.
        broker, workers: the places of the processes.
        robot_links: ports for robots, behind which the broker is reached through a proxy.
        worker_links: the proxies through which workers reach the broker, one each.
    """

    def __init__(
        self,
        processes: Processes,
        workers: int,
        settings: Sequence[str],
        *,
        broker_settings: Sequence[str] = (),
        network: Network | None = None,
        robot_links: int = 0,
    ) -> None:
        """Start them all; `settings` are every worker's, `broker_settings` the broker's."""
        self.port, self.back = free_ports(2)
        ends = [f"{end}=tcp://127.0.0.1:{port}" for end, port in self._ends()]
        if network is not None:
            ends.append("nearby=false")  # workers would leave their links
        self.broker = Place(processes, "broker", "broker", *ends, *broker_settings)
        self.robot_links: list[Link] = []
        self.worker_links: list[Link] = []
        if network is not None:
            self.robot_links = [network.link(self.port) for _ in range(robot_links)]
            self.worker_links = [network.link(self.back) for _ in range(workers)]
        doors = [link.port for link in self.worker_links] or [self.back] * workers
        self.workers = [
            Place(
                processes,
                f"worker {number}",
                "worker",
                *("env=aloha_sim", "model=tiny", f"broker=tcp://127.0.0.1:{door}", *settings),
            )
            for number, door in enumerate(doors, 1)
        ]
        self.broker.start()
        for worker in self.workers:
            worker.start()

    def wait_ready(self) -> None:
        """Return once all are ready.

        Raises:
            ProcessError: one is not.
        """
        for place in (self.broker, *self.workers):
            place.process.wait_ready(READY_S)

    def _ends(self) -> tuple[tuple[str, int], tuple[str, int]]:
        return ("frontend", self.port), ("backend", self.back)


def count_ready(client: ZmqPolicyClient) -> int:
    """How many workers the broker would give work to now."""
    policies = client.ping()["policies"]
    return sum(states.get("ready", 0) for states in policies.values())


def await_ready(client: ZmqPolicyClient, expected: int, timeout_s: float = READY_S) -> int:
    """Wait until so many workers are ready; returns how many are, fewer after `timeout_s`."""
    until = time.monotonic() + timeout_s
    while (ready := count_ready(client)) != expected and time.monotonic() < until:
        time.sleep(0.02)
    return ready
