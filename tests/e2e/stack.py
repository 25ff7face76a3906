"""A broker and workers as real processes, with clients of theirs in this one."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from client import ZmqPolicyClient
from scripts.local.processes import Process, Processes, free_ports
from tests.e2e.policies import OPEN

WAIT_S = 90.0  # for what should take a second at most; the machine may be busy


def eventually(is_true: Callable[[], object], what: str, within_s: float = WAIT_S) -> None:
    """Return once it is; fail, saying what never came, when it takes too long."""
    give_up = time.monotonic() + within_s
    while not is_true():
        assert time.monotonic() < give_up, f"never: {what}"
        time.sleep(0.01)


def _for_ever(client: ZmqPolicyClient, observation: dict[str, Any]) -> None:
    while True:
        client.infer(observation)


class Stack:
    """Two free ports and what runs there; everything ends with `processes`."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.frontend, self.backend = free_ports(2)
        self.folder = folder  # of the gates and logs
        self._processes = processes
        self._threads = ThreadPoolExecutor(max_workers=8)
        self._clients: list[ZmqPolicyClient] = []
        self._count = 0

    def broker(self, *settings: str) -> Process:
        """Start the broker; a second one after the first is gone takes its place."""
        return self._start(
            "broker",
            f"frontend=tcp://127.0.0.1:{self.frontend}",
            f"backend=tcp://127.0.0.1:{self.backend}",
            *settings,
        )

    def worker(self, name: str, *settings: str, policy: str = "echo") -> Process:
        """Start a worker that serves a policy under a name."""
        broker = f"broker=tcp://127.0.0.1:{self.backend}"
        return self._start("worker", broker, f"name={name}", f"policy={policy}", *settings)

    def staged(self, cls: str, name: str = "staged", **arguments: Any) -> Process:
        """Start a worker with one of `tests.e2e.policies`."""
        given = "".join(f", {key}: {value}" for key, value in arguments.items())
        return self.worker(name, policy=f"{{_target_: tests.e2e.policies.{cls}{given}}}")

    def gate(self, name: str = "staged", **arguments: Any) -> Process:
        """Start a worker whose inferences wait for `open_gate`."""
        return self.staged("Gate", name, folder=self.folder, **arguments)

    def open_gate(self) -> None:
        """Let them go on."""
        (self.folder / OPEN).touch()

    def close_gate(self) -> None:
        """Have them wait again; who has been inside is forgotten."""
        for file in (self.folder / OPEN, *self.folder.glob("*.inside")):
            file.unlink()

    def is_inside(self, worker: Process) -> bool:
        """Whether this worker has begun an inference."""
        return (self.folder / f"{worker.pid}.inside").exists()

    def client(self, **options: Any) -> ZmqPolicyClient:
        """A robot of its own."""
        options = {"timeout_s": WAIT_S, "connect_timeout_s": WAIT_S, **options}
        client = ZmqPolicyClient("127.0.0.1", self.frontend, **options)
        self._clients.append(client)
        return client

    def infer(self, observation: dict[str, Any], **options: Any) -> Future[dict[str, Any]]:
        """Ask from another thread, as a robot of its own."""
        return self._threads.submit(self.client(**options).infer, observation)

    def flood(self, observation: dict[str, Any], **options: Any) -> Future[None]:
        """Ask again and again until an error ends it."""
        return self._threads.submit(_for_ever, self.client(**options), observation)

    def accepted(self) -> int:
        """How many requests the broker has taken so far."""
        with self.client() as client:
            count: int = client.status()["counters"].get("accepted", 0)
        return count

    def hang_up(self) -> None:
        """Close all robots so far."""
        while self._clients:
            self._clients.pop().close()

    def close(self) -> None:
        """Hang up, which ends calls under way; processes are stopped by whoever owns them."""
        self.hang_up()
        self._threads.shutdown()

    def _start(self, module: str, *settings: str) -> Process:
        self._count += 1
        return self._processes.start(f"{module} {self._count}", module, *settings)
