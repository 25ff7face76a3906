"""Which version answers which episode of a broker's robots: one, as long as it can be had."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from broker.core import Core
from broker.names import GRACE_S
from client.names import base_of
from tests.simulation.violation import Violation

_NEVER = -1.0

Session = tuple[bytes, str]


@dataclass(slots=True, eq=False)
class Asked:
    """A request for a base name, as it came; `count` is its place among all that was noted."""

    at: float
    count: int
    told: str | None  # the version that its client named
    could_answer: bool  # could that one answer then?
    may_come: bool  # or may it be on its way to a broker that has just started?


@dataclass(slots=True, eq=False)
class Last:
    """The last answer of an episode."""

    full: str
    asked: Asked
    count: int


@dataclass
class Episodes:
    """What one core did with the episodes; raises `Violation` 7."""

    core: Core | None
    began: float | None = None  # the core's clock at the first event
    kept: Counter[str] = field(default_factory=Counter)  # answers that had to be a version's
    _last: dict[tuple[Session, str], Last] = field(default_factory=dict)
    _missed_at: dict[str, float] = field(default_factory=dict)  # by full name: last not to be had
    _resets: dict[Session, int] = field(default_factory=dict)
    _count: int = 0

    def look(self, now: float) -> None:
        """After every event: which versions can be had?"""
        if self.core is None:
            return
        if self.began is None:
            self.began = now
        for record in self.core.versions.records.values():
            for full in record.names:
                if self.core.pool.serves_since(full) is None or not record.plan.allows(full):
                    self._missed_at[full] = now

    def asked(self, policy: str | None, told: str | None, now: float) -> Asked:
        """A request has come."""
        self._count += 1
        core = self.core
        if core is None or told is None or policy not in (None, base_of(told)):
            return Asked(now, self._count, None, False, False)
        record = core.versions.records.get(base_of(told))
        could_answer = record is not None and told in record.names and self._has(told, now)
        is_young = policy is not None and self.began is not None and now < self.began + GRACE_S
        may_come = is_young and told not in core.pool.by_policy
        return Asked(now, self._count, told, could_answer, may_come)

    def reset(self, session: Session) -> None:
        """The episode has ended."""
        self._count += 1
        self._resets[session] = self._count
        for key in [key for key in self._last if key[0] == session]:
            del self._last[key]

    def answered(
        self, session: Session, asked: Asked | None, version: str | None, payload: bytes, now: float
    ) -> None:
        """A request got a result; `version` is what its header says."""
        if version is None or asked is None or self.core is None:
            return
        self._count += 1
        if payload.partition(b"|")[0] != version.encode():
            raise Violation(2, f"{payload!r} is said to be of {version}")
        self._check(self.core, session, asked, version, now)
        if self._resets.get(session, 0) < asked.count:
            self._last[session, base_of(version)] = Last(version, asked, self._count)

    def _check(self, core: Core, session: Session, asked: Asked, version: str, now: float) -> None:
        """Of requests that overlap, nobody can say which has to be like which."""
        last = self._last.get((session, base_of(version)))
        if asked.told is not None and asked.could_answer:
            expected, since = asked.told, asked.at
        elif asked.told is not None and asked.may_come:
            is_early = self.began is not None and now < self.began + GRACE_S
            if is_early and asked.told not in core.pool.by_policy and version != asked.told:
                raise Violation(7, f"{session} had {asked.told}, which may yet come: {version}")
            return
        elif last is not None and last.count < asked.count:
            idle_s = core.config.limits.episode_idle_s
            if asked.at - last.asked.at >= idle_s:
                return
            expected, since = last.full, last.asked.at
        else:
            return
        self.kept[expected] += 1
        if version != expected and self._missed_at.get(expected, _NEVER) < since:
            raise Violation(7, f"{session} had {expected}, which can answer, and got {version}")

    def _has(self, full: str, now: float) -> bool:
        return self._missed_at.get(full, _NEVER) < now
