"""Bugs planted in the worker's session: each must be caught, or the simulation proves nothing."""

from __future__ import annotations

import pytest

from client.wire import Header
from tests.simulation.mutant import Mutant, Patch, check_is_caught
from worker.events import Answered, Payload, Received, Send, Undecodable, attempt_of
from worker.session import Session


def _forgets_what_cannot_be_decoded(patch: Patch) -> None:
    def undecodable(self: Session, event: Undecodable, now: float) -> None:
        self.in_hand.pop(attempt_of(event.request), None)

    patch.setattr(Session, "_undecodable", undecodable)


def _answers_with_the_wrong_epoch(patch: Patch) -> None:
    def reply(self: Session, request: Header, fields: Header, payload: Payload = ()) -> None:
        original(self, request, fields, payload)
        for command in self._commands:
            if isinstance(command, Send):
                command.header["epoch"] -= 1

    original = Session._reply
    patch.setattr(Session, "_reply", reply)


def _answers_the_first_attempt(patch: Patch) -> None:
    def reply(self: Session, request: Header, fields: Header, payload: Payload = ()) -> None:
        original(self, request, fields, payload)
        for command in self._commands:
            if isinstance(command, Send):
                command.header["attempt"] = 1

    original = Session._reply
    patch.setattr(Session, "_reply", reply)


def _answers_any_broker(patch: Patch) -> None:
    def reply(self: Session, request: Header, fields: Header, payload: Payload = ()) -> None:
        if request["epoch"] != self.epoch:
            self.in_hand.pop(attempt_of(request), None)
            request = {**request, "epoch": self.epoch}
        original(self, request, fields, payload)

    original = Session._reply
    patch.setattr(Session, "_reply", reply)


def _keeps_ids_in_hand(patch: Patch) -> None:
    def reply(self: Session, request: Header, fields: Header, payload: Payload = ()) -> None:
        original(self, request, fields, payload)
        self.in_hand[attempt_of(request)] = None

    original = Session._reply
    patch.setattr(Session, "_reply", reply)


def _leaves_out_ids(patch: Patch) -> None:
    original = Session._ids
    patch.setattr(Session, "_ids", lambda self: original(self)[1:])


def _drains_without_beats(patch: Patch) -> None:
    patch.setattr(Session, "_is_drained", lambda self, now: not self.in_hand)


def _sends_answers_of_any_size(patch: Patch) -> None:
    def answered(self: Session, event: Answered, now: float) -> None:
        self._max_bytes = None
        original(self, event, now)

    original = Session._answered
    patch.setattr(Session, "_answered", answered)


def _never_says_ready(patch: Patch) -> None:
    patch.setattr(Session, "_say_ready", lambda self: None)


def _ignores_who(patch: Patch) -> None:
    def received(self: Session, message: Received, now: float) -> None:
        if message.header["kind"] != "who":
            original(self, message, now)

    original = Session._received
    patch.setattr(Session, "_received", received)


def _echoes_no_beat(patch: Patch) -> None:
    patch.setattr(Session, "_heartbeat", lambda self, message, now: None)


def _echoes_beats_that_did_not_come(patch: Patch) -> None:
    def heartbeat(self: Session, message: Received, now: float) -> None:
        original(self, message, now)
        self._beat = (self._beat or 0) + 3

    original = Session._heartbeat
    patch.setattr(Session, "_heartbeat", heartbeat)


def _keeps_the_last_brokers_epoch(patch: Patch) -> None:
    def welcome(self: Session, message: Received, now: float) -> None:
        if self.epoch is not None:
            message.header["epoch"] = self.epoch
        original(self, message, now)

    original = Session._welcome
    patch.setattr(Session, "_welcome", welcome)


def _takes_any_complaint_for_a_refusal(patch: Patch) -> None:
    def error(self: Session, message: Received, now: float) -> None:
        message.header["code"] = "worker_refused"
        original(self, message, now)

    original = Session._error
    patch.setattr(Session, "_error", error)


def _oversleeps(patch: Patch) -> None:
    patch.setattr(Session, "wake_at", lambda self: self._next_beat + 3.0)


MUTANTS = [
    Mutant("forgets what cannot be decoded", {1, 4, 5}, _forgets_what_cannot_be_decoded),
    Mutant("answers with the wrong epoch", {1, 3, 4, 5}, _answers_with_the_wrong_epoch),
    Mutant("answers the first attempt", {1, 2, 3, 4, 5}, _answers_the_first_attempt),
    Mutant("answers any broker", {1, 2, 3}, _answers_any_broker, 109),
    Mutant("keeps ids in hand", {4}, _keeps_ids_in_hand),
    Mutant("leaves out ids", {4}, _leaves_out_ids),
    Mutant("drains without beats", {1}, _drains_without_beats, 114),
    Mutant("sends answers of any size", {4}, _sends_answers_of_any_size),
    Mutant("never says ready", {5}, _never_says_ready),
    Mutant("ignores who", {5}, _ignores_who),
    Mutant("echoes no beat", {5}, _echoes_no_beat),
    Mutant("echoes beats that did not come", {3}, _echoes_beats_that_did_not_come),
    Mutant("keeps the last broker's epoch", {5}, _keeps_the_last_brokers_epoch, 42),
    Mutant("takes any complaint for a refusal", {5}, _takes_any_complaint_for_a_refusal, 69),
    Mutant("oversleeps", {5}, _oversleeps),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_planted_bug_is_caught(mutant: Mutant, monkeypatch: Patch) -> None:
    check_is_caught(mutant, monkeypatch)
