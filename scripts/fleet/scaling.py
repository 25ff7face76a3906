"""How many workers a policy should have: a function of its demand, its bounds and the time."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from scripts.fleet.config import ScalingSettings

_RECENT_S = 5.0  # a robot that asked so lately still wants its policy
_CALM = 0.5  # the share of the slots that the others must have free when one worker goes
_STEEPEST = 2  # times as many workers in one step


@dataclass(frozen=True)
class Demand:
    """What the brokers say of a policy; times in seconds."""

    waiting: int = 0
    wait_s: float = 0.0  # predicted for a request that comes now
    asked_s_ago: float = math.inf
    ready: int = 0  # workers
    slots: int = 0  # of the ready workers
    in_hand: int = 0


@dataclass(frozen=True)
class Bounds:
    """How many workers a policy may have."""

    least: int
    most: int


@dataclass(frozen=True)
class Memory:
    """What a decision depends on of the time before: since when (None: it is not so)."""

    short_since: float | None = None  # requests wait too long
    calm_since: float | None = None  # one worker less would do
    changed_at: float = -math.inf


@dataclass(frozen=True)
class Decision:
    """How many workers, why if that is new, and what to remember."""

    workers: int
    memory: Memory
    reason: str = ""


def decide(
    workers: int,
    demand: Demand | None,
    bounds: Bounds,
    memory: Memory,
    now: float,
    settings: ScalingSettings,
) -> Decision:
    """How many workers a policy that now has `workers` should have.

    `demand` is None while no broker answers: then nothing changes but what the bounds ask for.
    """
    within = min(max(workers, bounds.least), bounds.most)
    if within != workers:
        return _changed(within, now, "its bounds")
    if demand is None:
        return Decision(workers, replace(memory, short_since=None, calm_since=None))
    if workers == 0:
        lately_s = min(_RECENT_S, settings.idle_s / 2)  # or the last one's idleness would wake it
        if bounds.most and (demand.waiting or demand.asked_s_ago < lately_s):
            return _changed(1, now, "a robot asks")
        return Decision(0, memory)
    memory = _remember(workers, demand, memory, now, settings)
    if now - memory.changed_at < settings.cool_down_s:
        return Decision(workers, memory)
    if workers < bounds.most and _lasts(memory.short_since, now, settings.up_after_s):
        needed = math.ceil(workers * demand.wait_s / settings.longest_wait_s)
        more = min(max(needed, workers + 1), workers * _STEEPEST, bounds.most)
        return _changed(more, now, f"requests wait {demand.wait_s:.1f} s")
    if workers > max(bounds.least, 1) and _lasts(memory.calm_since, now, settings.down_after_s):
        return _changed(workers - 1, now, "half of its slots are free")
    is_idle = not demand.waiting and not demand.in_hand
    # A worker that nobody has ever asked for is no older than the last change.
    quiet_s = min(demand.asked_s_ago, now - memory.changed_at)
    if workers == 1 and bounds.least == 0 and is_idle and quiet_s > settings.idle_s:
        return _changed(0, now, f"nobody has asked for {settings.idle_s:g} s")
    return Decision(workers, memory)


def _remember(
    workers: int, demand: Demand, memory: Memory, now: float, settings: ScalingSettings
) -> Memory:
    # Workers that are on their way will shorten the queue: nothing is short before they are there.
    is_short = demand.ready >= workers and demand.wait_s > settings.longest_wait_s
    others = demand.slots * (1 - 1 / demand.ready) if demand.ready else 0.0
    is_calm = not demand.waiting and demand.in_hand <= others * _CALM and demand.ready >= workers
    return replace(
        memory,
        short_since=_since(is_short, memory.short_since, now),
        calm_since=_since(is_calm, memory.calm_since, now),
    )


def _since(is_so: bool, before: float | None, now: float) -> float | None:
    if not is_so:
        return None
    return now if before is None else before


def _lasts(since: float | None, now: float, least_s: float) -> bool:
    return since is not None and now - since >= least_s


def _changed(workers: int, now: float, reason: str) -> Decision:
    return Decision(workers, Memory(changed_at=now), reason)
