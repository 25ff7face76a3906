"""Where the processes of a benchmark run: on this machine itself, or on hosts made for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from scripts.local.processes import Process

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Host:
    """One of them. `inside` is what precedes a command that is to run there."""

    address: str = _LOOPBACK
    inside: Sequence[str] = ()

    @property
    def is_open(self) -> bool:
        """Can others reach it? Then the broker wants to be told that this is meant."""
        return self.address != _LOOPBACK


@dataclass(frozen=True)
class Site:
    """Who runs where. Servers other than our broker run on the worker's host."""

    robot: Host = Host()
    broker: Host = Host()
    worker: Host = Host()
    emulators: Sequence[Process] = field(default_factory=list)  # of links: part of what is measured


HERE = Site()
