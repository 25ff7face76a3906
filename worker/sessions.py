"""All sessions of one worker: one for each of its brokers, and the credits that they share.

As pure as the sessions. With one broker there is its `worker.session` and nothing else. With
several, a session differs in three things. Its broker is told how much it may have in hand
(`worker.credits`), in `ready` and in every heartbeat. A lost connection ends the registration: the
next one has a new routing id. And of what a broker has given in a registration that has ended
nothing is answered, though it counts until it is computed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from client.wire import Header
from worker.credits import Credits, Share
from worker.events import (
    RETIRED_S,
    Answered,
    Command,
    Disconnected,
    Event,
    Exit,
    Introduction,
    Payload,
    Received,
    Renew,
    Retire,
    Run,
    ShareChanged,
    Stop,
    Undecodable,
)
from worker.session import FIRST_INTERVAL_S, Session

Directed = tuple[int, Command]
"""A command, and the index of the broker that it is about."""


class SharedSession(Session):
    """What one of several brokers and this worker know of each other."""

    def __init__(self, introduction: Introduction, endpoint: str, now: float, share: Share) -> None:
        """`share`: what this broker may have of the slots. The rest is as for a `Session`."""
        super().__init__(introduction, endpoint, now)
        self.share = share
        self._registration = 0  # the number of this one
        self._events[Disconnected] = self._disconnected
        self._events[ShareChanged] = lambda event, now: self._say_heartbeat()

    def handle(self, event: Event, now: float) -> list[Command]:
        """As a `Session` does; after the end what was in hand is still counted."""
        if self._ended and isinstance(event, (Answered, Undecodable)):
            self.share.answered(is_orphan=True)
        return super().handle(event, now)

    def _received(self, message: Received, now: float) -> None:
        header = message.header
        if self.epoch is not None and header.get("epoch") == self.epoch:
            self.share.waiting = header.get("waiting", self.share.waiting)
            self.share.acknowledged(header.get("grant", -1))
        super()._received(message, now)

    def _welcome(self, message: Received, now: float) -> None:
        # Another broker, while shares of the old one may be out. Or this one had forgotten us and
        # what it has given, and would now give as much again.
        is_other = self.epoch not in (None, message.header["epoch"])
        has_forgotten = "grant" not in message.header and self.share.held > 0
        if is_other or has_forgotten:
            self._renew(now)
        else:
            super()._welcome(message, now)

    def _infer(self, message: Received, now: float) -> None:
        if message.header["epoch"] != self.epoch:
            self._log(logging.WARNING, "ignored a request of a broker that is no more")
            return
        message.header["registration"] = self._registration
        self.share.took()
        super()._infer(message, now)

    def _reply(self, request: Header, fields: Header, payload: Payload = ()) -> None:
        if request["registration"] == self._registration:
            self.share.answered(is_orphan=False)
            super()._reply(request, fields, payload)
            return
        self.share.answered(is_orphan=True)
        text = "an answer is not sent: its broker was lost, and the robot asks again"
        self._log(logging.WARNING, text, request=str(request["id"]))

    def _retire(self, message: Received, now: float) -> None:
        super()._retire(message, now)
        self._commands.append(Retire())

    def _stop(self, event: Stop, now: float) -> None:
        self.share.is_open = False
        super()._stop(event, now)

    def _say(self, fields: Header, payload: Payload = ()) -> None:
        if fields["kind"] in ("ready", "heartbeat"):
            self.share.is_open = self.state == "ready"
            fields |= {"slots": self.share.granted, "grant": self.share.number}
        super()._say(fields, payload)

    def _disconnected(self, event: Disconnected, now: float) -> None:
        if self.epoch is not None:  # else nothing was given yet, and the socket connects again
            self._renew(now)

    def _renew(self, now: float) -> None:
        """Begin anew with this broker: nothing that it has sent so far can come any more."""
        self.share.end()
        self.in_hand.clear()
        self.epoch, self._beat = None, 0
        self._registration += 1
        self._next_beat = now + FIRST_INTERVAL_S
        self._commands.append(Renew())

    def _exit(self, code: int) -> None:
        self.share.end()
        super()._exit(code)


class Sessions:
    """Passes events to the sessions, and moves credits between them."""

    def __init__(self, introduction: Introduction, endpoints: Sequence[str], now: float) -> None:
        """`endpoints`: of the brokers. `now` is in monotonic seconds."""
        self.all: list[Session]
        self._credits: Credits | None = None
        self._ended: set[int] = set()
        if len(endpoints) == 1:
            self.all = [Session(introduction, endpoints[0], now)]
        else:
            self._credits = Credits(introduction.slots, len(endpoints))
            self.all = [
                SharedSession(introduction, endpoint, now, share)
                for endpoint, share in zip(endpoints, self._credits.shares, strict=True)
            ]

    @property
    def is_idle(self) -> bool:
        """Is nothing in hand?"""
        if self._credits is None:
            return not self.all[0].in_hand
        return not any(share.held + share.orphans for share in self._credits.shares)

    def wake_at(self) -> float:
        """When `handle` wants to be called with `Tick` at the latest."""
        if self._credits is None:
            return self.all[0].wake_at()
        beats = [each.wake_at() for at, each in enumerate(self.all) if at not in self._ended]
        return min([self._credits.wake_at(), *beats])

    def handle(self, event: Event, now: float, at: int | None = None) -> list[Directed]:
        """Take in an event of the broker `at`, or of all of them; returns what to do about it.

        An answer needs no `at`. There is one `Exit`, when the last session has ended.
        """
        if self._credits is None:
            return [(0, command) for command in self.all[0].handle(event, now)]
        if isinstance(event, (Answered, Undecodable)):
            at = event.request["broker"]
        commands: list[Directed] = []
        for each in range(len(self.all)) if at is None else [at]:
            self._tell(each, event, now, commands)
        for each in self._credits.overdue(now):
            self._tell(each, Disconnected(), now, commands)
        for each in self._credits.settle(now):
            self._tell(each, ShareChanged(), now, commands)
        return commands

    def _tell(self, at: int, event: Event, now: float, commands: list[Directed]) -> None:
        for command in self.all[at].handle(event, now):
            if isinstance(command, Run):
                command.request["broker"] = at
            elif isinstance(command, Retire):
                for other, session in enumerate(self.all):
                    if session.state != "draining":
                        self._tell(other, Stop(RETIRED_S), now, commands)
                continue
            elif isinstance(command, Exit):
                self._ended.add(at)
                if len(self._ended) < len(self.all):
                    continue
            commands.append((at, command))
