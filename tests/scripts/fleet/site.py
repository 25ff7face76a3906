"""A place for fleets: several Ray nodes, ports of a broker, and the commands of an operator."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.local.processes import free_ports
from tests.scripts.fleet.machines import ENVIRONMENT, ROOT, WAIT_S, Machines


class Site:
    """The machines, a fleet on them, and the commands of an operator."""

    def __init__(self, machines: Machines, folder: Path) -> None:
        self.machines, self.folder = machines, folder
        self.front, self.back = free_ports(2)

    def write(self, name: str, text: str) -> Path:
        file = self.folder / f"{name}.yaml"
        ports = {"front": self.front, "back": self.back, "logs": self.folder / "logs"}
        file.write_text(text.format(name=name, **ports))
        return file

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "scripts.fleet", *words],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
            check=False,
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
        )

    def ask(self, command: str, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        where = f"ray.address={self.machines.address}", "ray.timeout_s=300"
        return self.run(command, *words, f"name={name}", *where)

    def up(self, name: str, text: str) -> subprocess.CompletedProcess[str]:
        return self.ask("up", name, f"file={self.write(name, text)}")

    def member(self, name: str, fleet: str = "one") -> dict[str, Any]:
        members = self.machines.state(fleet)["members"]
        return next((each for each in members if each["name"] == name), {"state": "none"})

    def until(self, is_true: Callable[[], object], what: str) -> None:
        give_up = time.monotonic() + WAIT_S
        while not is_true():
            assert time.monotonic() < give_up, f"never: {what}: {self.machines.state('one')}"
            time.sleep(0.2)
