"""What a rollout may have to do next."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Code(IntEnum):
    """Exit codes of the command; 2 is for mistakes in its configuration."""

    DONE = 0
    NOT_READY = 1
    ROLLED_BACK = 3
    SILENT = 4
    INTERRUPTED = 130


@dataclass(frozen=True)
class Plan:
    """What brokers are told; with `move`, episodes of a version without a share move at once."""

    stable: str
    candidate: str | None = None
    share: float = 0.0
    retire: tuple[str, ...] = ()
    move: bool = False


@dataclass(frozen=True)
class Say:
    """A line for the operator."""

    text: str
    is_bad: bool = False


@dataclass(frozen=True)
class Stop:
    """End the workers that this command started."""


@dataclass(frozen=True)
class End:
    """The rollout is over."""

    code: Code
    reason: str


Action = Plan | Say | Stop | End


def counted(count: int, what: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{count} {what}{'' if count == 1 else 's'}"
