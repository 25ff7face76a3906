"""A broker with a tap, old versions of `Arm`, and rollouts of new ones; benchmarks use it too."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import psutil

from scripts.local.processes import Process, Processes
from scripts.rollout.__main__ import main
from tests.e2e.stack import Stack, eventually
from tests.scripts.rollout.robots import Robots

ARM = "tests.scripts.rollout.policies.Arm"
ROOT = Path(__file__).parents[3]


class Site:
    """One broker, and what a test rolls out there under a name of its own."""

    def __init__(self, processes: Processes, folder: Path, *settings: str) -> None:
        self.folder, self.tap = folder, f"ipc://{folder / 'tap'}"
        self.stack = Stack(processes, folder)
        self._processes, self._settings = processes, (f"tap={self.tap}", *settings)
        self.start_broker()

    def start_broker(self) -> None:
        """Start it, again where it was killed."""
        self.broker = self.stack.broker(*self._settings)
        self.broker.wait_ready()

    def old(self, name: str, version: str | None = "1", **arguments: Any) -> Process:
        """A worker of the old version, `1` or none, which is ready."""
        words = [] if version is None else [f"version={version}"]
        worker = self.stack.worker(name, *words, policy=_policy("1", **arguments))
        worker.wait_ready()
        return worker

    def robots(self, name: str, count: int = 4, **habits: float) -> Robots:
        """Robots that have been answered."""
        robots = Robots(count, [self.stack.frontend], name, **habits)
        eventually(lambda: len(robots.seen().took) >= count, "they are answered")
        return robots

    def words(self, name: str, *words: str, policy: str = "", **arguments: Any) -> list[str]:
        """The command line of a rollout to version 2, whose steps are as short as can be."""
        given = [
            f"policy={policy or _policy('2', **arguments)}",
            f"broker=tcp://127.0.0.1:{self.stack.backend}",
        ]
        quoted = ",".join(f"'{word}'" for word in given)
        return [
            *(f"policy={name}", "version=2", f"worker=[{quoted}]"),
            f"broker=[127.0.0.1:{self.stack.frontend}]",
            *("step_s=0", "step_episodes=4", "shares=[0.5,1]", "bounds.latency_factor=null"),
            *(f"logs={self.folder / 'new'}", f"report={self.report(name)}", *words),
        ]

    def report(self, name: str) -> Path:
        """Where a rollout tells what came of it."""
        return self.folder / f"{name}.json"

    def roll_out(self, name: str, *words: str, policy: str = "", **arguments: Any) -> int:
        """Do it in this process; returns the exit code."""
        return main(self.words(name, *words, policy=policy, **arguments))

    def told(self, name: str) -> dict[str, Any]:
        """The report of the last rollout of a name."""
        told: dict[str, Any] = json.loads(self.report(name).read_text())
        return told

    def left(self) -> list[psutil.Process]:
        """The workers of this broker, which live on when a rollout has ended."""
        backend = f"tcp://127.0.0.1:{self.stack.backend}"
        return [
            process
            for process in psutil.process_iter(["cmdline"])
            if "worker" in (words := process.info["cmdline"] or []) and backend in str(words)
        ]

    def close(self) -> None:
        """End the workers that live on."""
        self.stack.close()
        for process in self.left():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def _policy(version: str, **arguments: Any) -> str:
    given = "".join(f", {key}: {value}" for key, value in arguments.items())
    return f'{{_target_: {ARM}, version: "{version}"{given}}}'
