"""Versions of policies: which one a new episode gets, which it then keeps.

A policy may be served in several versions, under the full names `aloha@1`, `aloha@2` and also plain
`aloha`; `aloha` is their base name. A robot that asks for the base name is answered by one version
for a whole episode, which is a client's session. A plan says how many of the new episodes a new
version, the candidate, is given.

Nothing here knows workers: callers pass a function that says since when a version is served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from client.names import base_of

Key = tuple[bytes, str]  # an episode: the client and its session
Since = Callable[[str], float | None]  # when a full name's first worker came; None: has none
_NAMES = 8  # of policies that one episode asks for
_ROUNDING = 1e-9  # 0.1 times 30 is a little more or less than 3


@dataclass(frozen=True, slots=True)
class Plan:
    """How new episodes of one base name are shared out; no plan without a stable version."""

    stable: str | None = None
    candidate: str | None = None
    share: float = 0.0  # of the new episodes, for the candidate
    moves: bool = False  # episodes that run on other versions do not finish there

    def allows(self, full: str) -> bool:
        """Whether an episode that has this version may keep it."""
        if not self.moves:
            return True
        return full == self.stable or (full == self.candidate and self.share > 0.0)


@dataclass(slots=True)
class Record:
    """One base name: its versions, its plan, and the episodes of each version."""

    names: dict[str, None] = field(default_factory=dict)  # full names, the first known is first
    plan: Plan = field(default_factory=Plan)
    assigned: int = 0  # new episodes since the plan was made
    to_candidate: int = 0  # those of them that the candidate got
    begun: Counter[str] = field(default_factory=Counter)  # episodes, by full name
    running: Counter[str] = field(default_factory=Counter)
    moved: int = 0  # episodes that went on with another version

    def use(self, plan: Plan) -> None:
        """Share out new episodes by this plan from now on."""
        self.plan, self.assigned, self.to_candidate = plan, 0, 0


@dataclass(slots=True)
class Episode:
    """One episode, and the version that answers it."""

    full: str
    seen_at: float


class Versions:
    """Knows the versions of each base name, and which of them each running episode has.

    `records` has only names that are served in versions, so all others cost one look-up.
    """

    def __init__(self, most: int, idle_s: float, counters: Counter[str]) -> None:
        """Remember at most `most` episodes; one that has no request for `idle_s` is over."""
        self.records: dict[str | None, Record] = {}
        self._most, self._idle_s, self._counters = most, idle_s, counters
        self._episodes: dict[Key, Episode] = {}  # the one seen last is last
        # Episodes of names that are served in one version so far, whose clients do not tell it:
        # when which name answered them last.
        self._unversioned: dict[Key, dict[str, float]] = {}

    def add(self, full: str, known: Mapping[str, object]) -> None:
        """Add a full name that is served or expected for the first time; `known` are the others."""
        base = base_of(full)
        if full != base or base in self.records:
            self.record(base, known).names.setdefault(full)

    def record(self, base: str, known: Mapping[str, object]) -> Record:
        """The record of a base name, whose episodes are remembered from now on."""
        record = self.records.get(base)
        if record is None:
            names = [name for name in known if base_of(name) == base]
            record = self.records[base] = Record(dict.fromkeys(names))
            for key, names_seen in list(self._unversioned.items()):
                seen_at = names_seen.pop(base, None)
                if seen_at is not None and key not in self._episodes:
                    self._remember(record, key, None, base, seen_at)
        return record

    def answered(self, base: str, key: Key, now: float) -> None:
        """A name without other versions has answered an episode whose client does not tell it.

        Once there are versions, the episode is remembered to have the one without a number.
        """
        names_seen = self._unversioned.pop(key, {})
        names_seen[base] = now
        self._unversioned[key] = names_seen
        if len(names_seen) > _NAMES:
            del names_seen[min(names_seen, key=names_seen.__getitem__)]
        if len(self._unversioned) > self._most:
            del self._unversioned[next(iter(self._unversioned))]

    def choose(self, base: str, key: Key, told: str | None, since: Since, now: float) -> str:
        """The version for a request of an episode, which is remembered.

        Args:
            base: what the robot asks for, one of `records`.
            key: the episode.
            told: the version that answered the episode's last request, as its client says.
            since: when the first worker came that can answer a full name; None where there is none.
            now: the core's time.
        """
        self.forget_idle(now)
        record, episode = self.records[base], self._episodes.pop(key, None)
        if episode is not None and base_of(episode.full) != base:
            self.records[base_of(episode.full)].running[episode.full] -= 1
            episode = None
        before = self._before(record, episode, told, since)
        if before is not None:
            full = before
        elif episode is not None or told in record.names:
            last = episode.full if episode is not None else str(told)
            full = self._another(record, since)
            if since(full) is None and record.plan.allows(last):
                full = last  # nobody is there to go on with it: whoever comes first does
            if full != last:
                self._moved(record)
        else:
            full = self._assign(record, since)
            record.begun[full] += 1
        self._remember(record, key, episode, full, now)
        return full

    def peek(self, base: str, key: Key, told: str | None, since: Since) -> str:
        """The version that a request of this episode would get now; nothing is remembered."""
        record, episode = self.records[base], self._episodes.get(key)
        if episode is not None and base_of(episode.full) != base:
            episode = None
        return self._before(record, episode, told, since) or self._another(record, since)

    def forget(self, key: Key) -> None:
        """Forget an episode that has ended."""
        self._unversioned.pop(key, None)
        episode = self._episodes.pop(key, None)
        if episode is not None:
            self.records[base_of(episode.full)].running[episode.full] -= 1

    def forget_idle(self, now: float) -> None:
        """Forget the episodes that had no request for so long that they are taken to be over."""
        before = now - self._idle_s
        while self._episodes:
            key = next(iter(self._episodes))
            if self._episodes[key].seen_at >= before:
                break
            self.forget(key)

    def move(self, base: str, since: Since) -> int:
        """Move the episodes that may not keep their version by the plan.

        Returns:
            How many were moved.
        """
        record, before = self.records[base], self.records[base].moved
        for episode in self._episodes.values():
            if base_of(episode.full) == base and not record.plan.allows(episode.full):
                full = self._another(record, since)
                if full != episode.full:
                    self._moved(record)
                    record.running[episode.full] -= 1
                    record.running[full] += 1
                    episode.full = full
        return record.moved - before

    def __len__(self) -> int:
        """How many episodes are remembered, those of names without versions too."""
        return len(self._episodes) + len(self._unversioned)

    def _before(
        self, record: Record, episode: Episode | None, told: str | None, since: Since
    ) -> str | None:
        """The version that the episode has had, if it can keep it."""
        # The client knows better: it may have been answered by another broker in between.
        for full in (told, episode.full if episode is not None else None):
            if full is None or full not in record.names or not record.plan.allows(full):
                continue
            if since(full) is not None:
                return full
        return None

    def _moved(self, record: Record) -> None:
        record.moved += 1
        self._counters["episodes moved"] += 1

    def _remember(
        self, record: Record, key: Key, episode: Episode | None, full: str, now: float
    ) -> None:
        if episode is None:
            if len(self._episodes) >= self._most:
                self.forget(next(iter(self._episodes)))
                self._counters["episodes forgotten (limits.max_episodes)"] += 1
            episode = Episode(full, now)
            record.running[full] += 1
        elif episode.full != full:
            record.running[episode.full] -= 1
            record.running[full] += 1
        episode.full, episode.seen_at = full, now
        self._episodes[key] = episode

    def _assign(self, record: Record, since: Since) -> str:
        """The version of a new episode; the candidate gets its share in even steps."""
        plan, candidate = record.plan, record.plan.candidate
        record.assigned += 1
        is_due = record.to_candidate + 1 <= plan.share * record.assigned + _ROUNDING
        full = self._another(record, since)
        if candidate is not None and is_due and since(candidate) is not None:
            full = candidate
        if full == candidate:
            record.to_candidate += 1
        return full

    def _another(self, record: Record, since: Since) -> str:
        """The version for an episode without one: the stable version if it is served."""
        plan = record.plan
        if plan.stable is not None and since(plan.stable) is not None:
            return plan.stable
        served = [full for full in record.names if since(full) is not None]
        if not served:
            return plan.stable or next(iter(record.names))
        return min(served, key=lambda full: (full == plan.candidate, *_order(full, since)))


def _order(full: str, since: Since) -> tuple[bool, float]:
    """The order without a plan: the name without a version first, then the longest served."""
    return base_of(full) != full, since(full) or 0.0
