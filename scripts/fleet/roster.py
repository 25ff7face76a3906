"""Every member of a fleet and what becomes of it: events and time in, commands out.

A member is a place in a group, such as `aloha-2`, which is the second worker of the policy aloha.
It has one life after the other; each is a process in a seat of its own. What comes of an earlier
life is told from what comes of the present one by the life's number.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from scripts.fleet.config import RestartSettings
from scripts.fleet.restarts import GivenUp, after_exit


class State(StrEnum):
    """What a member does."""

    waiting = "waiting"  # to be started, again or for the first time
    pending = "pending"  # its machine is being chosen
    starting = "starting"
    ready = "ready"
    draining = "draining"
    given_up = "given up"


SEATED = frozenset({State.pending, State.starting, State.ready, State.draining})
# Those that go first when a group shrinks.
_DISPENSABLE = (State.given_up, State.waiting, State.pending, State.starting, State.ready)


@dataclass(slots=True, eq=False)
class Member:
    """One process's place in the fleet. Times are the caller's, in seconds."""

    group: str
    number: int
    state: State = State.waiting
    life: int = 0
    failures: int = 0  # in a row
    restarts: int = 0
    node: str = ""
    reason: str = ""  # why it is not ready, or was not
    due_at: float = 0.0  # waiting: when it is started; draining: when it is killed
    ready_at: float | None = None

    @property
    def name(self) -> str:
        """Its name, which stays the same over all its lives."""
        return f"{self.group}-{self.number}"


@dataclass(frozen=True)
class Open:
    """Make a seat for this life of a member, and start its process there."""

    name: str
    life: int


@dataclass(frozen=True)
class Drain:
    """Ask its process to finish what it has in hand and to end."""

    name: str
    life: int


@dataclass(frozen=True)
class Close:
    """Remove the seat, and kill what still runs there."""

    name: str
    life: int


Command = Open | Drain | Close


@dataclass(slots=True)
class Roster:
    """All members. `commands` are to be carried out, and then cleared, by the caller."""

    settings: RestartSettings
    members: dict[str, Member] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)

    def of(self, group: str) -> list[Member]:
        """A group's members that are to stay."""
        return [
            member
            for member in self.members.values()
            if member.group == group and member.state is not State.draining
        ]

    def resize(self, group: str, size: int, now: float) -> None:
        """Add members, or have those go that are missed least."""
        members = self.of(group)
        taken = {each.number for each in self.members.values() if each.group == group}
        for number in range(1, len(taken) + size - len(members) + 1):
            if len(members) >= size:
                break
            if number not in taken:
                member = Member(group, number, due_at=now)
                self.members[member.name] = member
                members.append(member)
        leaving = sorted(members, key=lambda each: (_DISPENSABLE.index(each.state), -each.number))
        for member in leaving[: len(members) - size]:
            self._dismiss(member, now)

    def try_again(self, group: str, now: float) -> None:
        """Start those of a group that were given up, or wait to be started, at once."""
        for member in self.of(group):
            if member.state in (State.given_up, State.waiting):
                member.state, member.failures, member.due_at = State.waiting, 0, now

    def adopt(self, group: str, number: int, life: int, now: float) -> None:
        """Take over a seat that an earlier director has left."""
        member = Member(group, number, State.pending, life, restarts=life - 1, due_at=now)
        old = self.members.get(member.name)
        if old is not None and old.life >= life:
            self.commands.append(Close(member.name, life))
            return
        if old is not None:
            self.commands.append(Close(old.name, old.life))
        self.members[member.name] = member

    # What the seats say. `life` is the one that it is about; what is about another one is too late.

    def placed(self, name: str, life: int, node: str) -> None:
        """A machine was found for it, and its process runs."""
        member = self._alive(name, life)
        if member is not None:
            member.node = node
            if member.state is State.pending:
                member.state, member.reason = State.starting, ""

    def ready(self, name: str, life: int, now: float) -> None:
        """Its process serves."""
        member = self._alive(name, life)
        if member is not None and member.state in (State.pending, State.starting):
            member.state, member.ready_at, member.reason = State.ready, now, ""

    def exited(self, name: str, life: int, code: int, words: str, now: float) -> None:
        """Its process ended, and these were its last words."""
        member = self._alive(name, life)
        if member is None:
            return
        self.commands.append(Close(name, life))
        if member.state is State.draining:
            del self.members[name]
            return
        ready_s = None if member.ready_at is None else now - member.ready_at
        said = words or "it said nothing"
        verdict = after_exit(code, member.failures, ready_s, self.settings)
        if isinstance(verdict, GivenUp):
            member.state = State.given_up
            member.reason = f"given up, {verdict.reason}: exit code {code}, {said}"
            return
        member.failures = verdict.failures
        self._wait(member, now + verdict.wait_s, f"exit code {code}, {said}")

    def lost(self, name: str, life: int, reason: str, now: float) -> None:
        """Its machine is gone, or the seat: no fault of the process, so it is started at once."""
        member = self._alive(name, life)
        if member is None:
            return
        self.commands.append(Close(name, life))
        if member.state is State.draining:
            del self.members[name]
        elif member.state is State.pending:  # never seated: if that goes on, it must not be fast
            member.failures = min(member.failures + 1, self.settings.tries)
            self._wait(member, now + self.settings.first_s * member.failures, reason)
        else:
            self._wait(member, now, reason)

    def tick(self, now: float) -> None:
        """Start those that are due, and kill those that drain too long."""
        for member in list(self.members.values()):
            if now < member.due_at:
                continue
            if member.state is State.waiting:
                member.restarts += member.life > 0
                member.life += 1
                member.state, member.node, member.ready_at = State.pending, "", None
                self.commands.append(Open(member.name, member.life))
            elif member.state is State.draining:
                self.commands.append(Close(member.name, member.life))
                del self.members[member.name]

    def wake_at(self) -> float:
        """When the passing of time will next change something."""
        waiting = (State.waiting, State.draining)
        dues = (each.due_at for each in self.members.values() if each.state in waiting)
        return min(dues, default=float("inf"))

    def _alive(self, name: str, life: int) -> Member | None:
        member = self.members.get(name)
        if member is None or member.life != life or member.state not in SEATED:
            return None
        return member

    def _wait(self, member: Member, until: float, reason: str) -> None:
        member.state, member.due_at, member.reason = State.waiting, until, reason
        member.node, member.ready_at = "", None

    def _dismiss(self, member: Member, now: float) -> None:
        if member.state in (State.starting, State.ready):
            # It may serve: robots must not notice that it goes.
            member.state, member.due_at = State.draining, now + self.settings.drain_s
            self.commands.append(Drain(member.name, member.life))
            return
        if member.state is State.pending:
            self.commands.append(Close(member.name, member.life))
        del self.members[member.name]
