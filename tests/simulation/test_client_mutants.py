"""Bugs planted in the client's session: each must be caught, or the simulation proves nothing."""

from __future__ import annotations

import pytest
import zmq

from client import errors
from client.session import Action, Failed, Frames, Pause, Session, Wait
from client.wire import Header, decode_header, encode_header
from tests.simulation.mutant import Mutant, Patch, check_is_caught


def _sends_again_under_a_new_id(patch: Patch) -> None:
    def lost(self: Session, now: float) -> Action:
        self._id = self._next_id()
        return original(self, now)

    original = Session.lost
    patch.setattr(Session, "lost", lost)


def _takes_foreign_answers(patch: Patch) -> None:
    def received(self: Session, frames: Frames, now: float) -> Action:
        reply = decode_header(frames[0])
        if self._limits_id is None and reply["kind"] == "result":
            frames = [zmq.Frame(encode_header({**reply, "id": self._id})), *frames[1:]]
        return original(self, frames, now)

    original = Session.received
    patch.setattr(Session, "received", received)


def _never_asks_what_the_broker_takes(patch: Patch) -> None:
    patch.setattr(Session, "_ask_limits", lambda self, now: self._send(now))


def _does_not_give_up(patch: Patch) -> None:
    def wake(self: Session, now: float) -> Action:
        action = original(self, now)
        return Wait(now + 0.5) if isinstance(action, Failed) else action

    original = Session.wake
    patch.setattr(Session, "wake", wake)


def _gives_up_before_its_time(patch: Patch) -> None:
    def lost(self: Session, now: float) -> Action:
        return self._give_up()

    patch.setattr(Session, "lost", lost)


def _gives_up_while_a_broker_restarts(patch: Patch) -> None:
    def refused(self: Session, reply: Header, now: float) -> Action:
        action = original(self, reply, now)
        if isinstance(action, Pause) and self._reason is not None:
            return Failed(self._reason, is_clean=True)
        return action

    original = Session._refused
    patch.setattr(Session, "_refused", refused)


def _never_sends_again(patch: Patch) -> None:
    patch.setattr(Session, "lost", lambda self, now: Wait(self._until))


def _sends_again_on_a_timer(patch: Patch) -> None:
    def sent(self: Session) -> Action:
        action = original_sent(self)
        return Wait(action.until - 0.2) if isinstance(action, Wait) else action

    def wake(self: Session, now: float) -> Action:
        if self._is_sent and now < self._until:
            return self._send(now)
        return original_wake(self, now)

    original_sent, original_wake = Session.sent, Session.wake
    patch.setattr(Session, "sent", sent)
    patch.setattr(Session, "wake", wake)


def _fails_for_good_while_it_pauses(patch: Patch) -> None:
    def wake(self: Session, now: float) -> Action:
        if self._is_pausing and now < self._until:
            return Failed(errors.DeadlineExceeded("no more tries"))
        return original(self, now)

    original = Session.wake
    patch.setattr(Session, "wake", wake)


def _does_not_say_which_version_answered(patch: Patch) -> None:
    def send(self: Session, now: float) -> Action:
        self._versions.clear()
        return original(self, now)

    original = Session._send
    patch.setattr(Session, "_send", send)


MUTANTS = [
    Mutant("sends again under a new id", {2}, _sends_again_under_a_new_id, 13),
    Mutant("takes foreign answers", {2}, _takes_foreign_answers, 106),
    Mutant("never asks what the broker takes", {4}, _never_asks_what_the_broker_takes, 13),
    Mutant("does not give up", {1, 5}, _does_not_give_up),
    Mutant("gives up before its time", {5}, _gives_up_before_its_time, 11),
    Mutant("gives up while a broker restarts", {5}, _gives_up_while_a_broker_restarts, 72),
    Mutant("never sends again", {5}, _never_sends_again, 13),
    Mutant("sends again on a timer", {2}, _sends_again_on_a_timer),
    Mutant("fails for good while it pauses", {5}, _fails_for_good_while_it_pauses, 11),
    Mutant("does not say which version answered", {7}, _does_not_say_which_version_answered),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_planted_bug_is_caught(mutant: Mutant, monkeypatch: Patch) -> None:
    check_is_caught(mutant, monkeypatch)
