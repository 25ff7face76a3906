"""The order of service between lanes: which waits for a policy's workers, and what it had of them.

A lane is a team's live or its evaluation requests. Live lanes go before evaluation lanes. Among
lanes of a class the one goes first that had least, in seconds of inference over its weight: start-
time fair queueing (Goyal, Vin and Cheng 1996), with what an inference is expected to take, put
right once it is known. Within a lane it is priority and deadline, as where there are no lanes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from broker.agenda import Agenda

# An inference counts no more than so often what was expected of it: beyond that a worker is overdue
# and has failed, which no robot is to pay for.
_DEAREST = 4.0
_LEAST_S = 1e-6  # of an inference, as some take no time
_SMOOTHING = 0.2
_ROUNDING = 1e-9


@dataclass(slots=True, eq=False)
class Lane:
    """The live or the evaluation requests of one team; "" are those that are in none."""

    team: str
    is_evaluation: bool
    weight: float = 1.0
    max_share: float | None = None


USUAL = Lane("", is_evaluation=False)


class Laned(Protocol):
    """What waits in a `FairQueue`."""

    lane: Lane
    turn: tuple[int, float]


@dataclass(slots=True)
class Shares:
    """What each lane had of one policy's workers since they were last without any work.

    Attributes:
        leased: requests that workers have, by lane.
    """

    evaluation_share: float
    reserve_live: int
    leased: Counter[Lane] = field(default_factory=Counter)
    _had: dict[Lane, float] = field(default_factory=dict)  # seconds over weight
    _waiting: set[Lane] = field(default_factory=set)
    # Where each class is: what the lane had that was served last, before that.
    _class_had: dict[bool, float] = field(default_factory=lambda: {False: 0.0, True: 0.0})
    _owed: float = 0.0  # inferences, to evaluations that wait, for live ones that went before
    _cost_s: float = 0.0  # a running mean

    @property
    def cost_s(self) -> float:
        """What an inference costs, on average."""
        return max(self._cost_s, _LEAST_S)

    def had(self, lane: Lane) -> float:
        """Seconds over weight; while a lane waits for nothing, it saves nothing for later."""
        had = self._had.get(lane, 0.0)
        return had if lane in self._waiting else max(had, self._class_had[lane.is_evaluation])

    def enter(self, lane: Lane) -> None:
        """A lane has something that waits, and had nothing before."""
        self._had[lane] = self.had(lane)
        self._waiting.add(lane)

    def leave(self, lane: Lane) -> None:
        """A lane has nothing more that waits."""
        self._waiting.discard(lane)

    def first(self, lanes: Iterable[Lane]) -> Lane | None:
        """The lane to serve next of those that wait; None if none may have a slot now."""
        live: Lane | None = None
        evaluation: Lane | None = None
        for lane in lanes:
            if lane.is_evaluation:
                if evaluation is None or self.had(lane) < self.had(evaluation):
                    evaluation = lane
            elif live is None or self.had(lane) < self.had(live):
                live = lane
        if live is None or evaluation is None:
            return live or evaluation
        if self._owed >= 1.0 - _ROUNDING:
            return evaluation
        share = self.evaluation_share
        self._owed += share / (1.0 - share)
        return live

    def lease(self, lane: Lane, cost_s: float) -> None:
        """A worker was given a request of a lane, and is expected to be busy for `cost_s`."""
        self.leased[lane] += 1
        had = self._class_had[lane.is_evaluation] = self.had(lane)
        self._had[lane] = had + cost_s / lane.weight
        self._cost_s += (_SMOOTHING if self._cost_s else 1.0) * (cost_s - self._cost_s)
        if lane.is_evaluation:
            self._owed = 0.0

    def correct(self, lane: Lane, expected_s: float, took_s: float) -> None:
        """What was expected to take one time took another."""
        took_s = max(min(took_s, _DEAREST * expected_s), _LEAST_S)
        self._had[lane] = self._had.get(lane, 0.0) + (took_s - expected_s) / lane.weight

    def release(self, lane: Lane) -> None:
        """A worker has one request of a lane less."""
        self.leased[lane] -= 1
        if not self.leased[lane]:
            del self.leased[lane]

    def closed(self, lane: Lane, slots: int) -> str:
        """Why a lane may have none of a policy's `slots` more now; empty if it may."""
        if lane.is_evaluation and self.reserve_live:
            taken = sum(count for each, count in self.leased.items() if each.is_evaluation)
            if taken >= slots - self.reserve_live:
                return (
                    f"of {slots} slots {self.reserve_live} are kept for live robots "
                    "(fairness.reserve_live)"
                )
        if lane.max_share is not None:
            most = max(1, int(lane.max_share * slots + _ROUNDING))
            taken = sum(count for each, count in self.leased.items() if each.team == lane.team)
            if taken >= most:
                return (
                    f"the team {lane.team!r} may have {most} of {slots} slots (max_share), and "
                    "has them"
                )
        return ""


class FairQueue:
    """Requests that wait for one policy, in lanes; otherwise as an `Agenda` of them."""

    def __init__(self, shares: Shares, usual: Agenda[Any]) -> None:
        """`usual` are those that wait already, all of the lane `USUAL`."""
        self.shares = shares
        self.lanes: dict[Lane, Agenda[Any]] = {}
        if usual:
            self.lanes[USUAL] = usual
            shares.enter(USUAL)

    def __len__(self) -> int:
        return sum(map(len, self.lanes.values()))

    def __contains__(self, item: Laned) -> bool:
        return item in self.lanes.get(item.lane, ())

    def __iter__(self) -> Iterator[Any]:
        """All that wait, in no particular order."""
        return iter([item for lane in self.lanes.values() for item in lane])

    def add(self, turn: tuple[int, float], item: Laned) -> None:
        """Put one in."""
        lane = self.lanes.get(item.lane)
        if lane is None:
            lane = self.lanes[item.lane] = Agenda()
            self.shares.enter(item.lane)
        lane.add(turn, item)

    def discard(self, item: Laned) -> None:
        """Take one out, if it is in."""
        lane = self.lanes.get(item.lane)
        if lane is not None:
            lane.discard(item)
            self._close_if_empty(item.lane)

    def pop(self, slots: int) -> Any:
        """Take out the one to be served next, where the policy's workers have `slots` in all.

        None if none of them may have a slot now.
        """
        lane = self.shares.first(
            [lane for lane in self.lanes if not self.shares.closed(lane, slots)]
        )
        if lane is None:
            return None
        item = self.lanes[lane].pop()
        self._close_if_empty(lane)
        return item

    def count_before(self, item: Laned) -> int:
        """About how many would be served before one that does not wait yet.

        It is exact where all inferences take the same time and nobody else comes.
        """
        own, cost_s, share = item.lane, self.shares.cost_s, self.shares.evaluation_share
        mine = self.lanes[own].count_until(item.turn) if own in self.lanes else 0
        start = self.shares.had(own) + mine * cost_s / own.weight
        before = mine
        for lane, waiting in self.lanes.items():
            if lane is own:
                continue
            if lane.is_evaluation == own.is_evaluation:
                turns = (start - self.shares.had(lane)) * lane.weight / cost_s
                before += min(len(waiting), max(0, math.ceil(turns - _ROUNDING)))
            elif own.is_evaluation:
                most = (mine + 1) * (1.0 - share) / share if share else math.inf
                before += len(waiting) if len(waiting) < most else math.ceil(most)
        return before

    def _close_if_empty(self, lane: Lane) -> None:
        if not self.lanes[lane]:
            del self.lanes[lane]
            self.shares.leave(lane)
