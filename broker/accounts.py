"""Counts what is in hand, for each robot and in all, to bound memory and each robot's share."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from broker.config import Limits


@dataclass(slots=True)
class Account:
    """One robot's requests in hand."""

    requests: int = 0
    bytes: int = 0


class Accounts:
    """Counts requests and their bytes; an account exists only while it holds something.

    With keys, a robot is identified by its key, without keys by its connection. Its client's
    uuid would not do: anyone can make as many as they like.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.robots: dict[Hashable, Account] = {}
        self.total = Account()

    def refusal(self, robot: Hashable, requests: int, size: int) -> str:
        """The reason why a robot may not have so many more requests and bytes in hand.

        Empty if it may. A request that replaces another adds none, and its size may be negative.
        """
        limits, total, own = self._limits, self.total, self.robots.get(robot)
        if total.requests + requests > limits.max_requests:
            return f"{total.requests} requests are in hand (limits.max_requests)"
        if total.bytes + size > limits.max_total_bytes:
            return f"{total.bytes} bytes are in hand (limits.max_total_bytes)"
        if own is None:
            return ""
        if own.requests + requests > limits.max_requests_per_robot:
            return (
                f"{own.requests} requests of yours are in hand (limits.max_requests_per_robot, to"
                " be raised where several robots share a key or a connection)"
            )
        if own.bytes + size > limits.max_bytes_per_robot:
            return f"{own.bytes} bytes of yours are in hand (limits.max_bytes_per_robot)"
        return ""

    def take(self, robot: Hashable, size: int) -> None:
        """A request was accepted."""
        own = self.robots.get(robot)
        if own is None:
            own = self.robots[robot] = Account()
        total = self.total
        own.requests += 1
        own.bytes += size
        total.requests += 1
        total.bytes += size

    def give_back(self, robot: Hashable, size: int) -> None:
        """A request got its final answer."""
        own, total = self.robots[robot], self.total
        own.requests -= 1
        own.bytes -= size
        total.requests -= 1
        total.bytes -= size
        if not own.requests:
            del self.robots[robot]
