"""Requests in flight: everything from a request's acceptance to its one final answer."""

from __future__ import annotations

import logging
from collections import Counter

from broker.accounts import Accounts
from broker.agenda import Agenda
from broker.config import Limits
from broker.events import Payload, Tapped, ToRobot
from broker.fairness import Fairness
from broker.outbox import Outbox
from broker.requests import Request, WaitingRoom
from broker.shares import USUAL
from broker.states import RequestState
from client import errors
from client.tap import ANSWER, REQUEST
from client.wire import Header, RequestId

RETRY_S = 1.0  # after which a refused robot may try again, if nothing better is known
# A broker that is told to stop while it is idle has left by then, and a new one may be there.
RETRY_DRAINING_S = 0.25
# Kept apart; beyond that they are counted in sum only, as robots could make up names.
_OUTCOMES = 1000
# Robots cause these in everyday operation, so they are logged for debugging only.
_EVERYDAY = (errors.Superseded, errors.Cancelled, errors.Draining)
_TOLD = ("priority", "deadline_ms", "memory", "written")  # at the tap, of a request's header
_WAITING = RequestState.WAITING  # Python 3.11 looks a member of an enumeration up by a call
_COUNTED = {state: state.value for state in RequestState}  # an enumeration's value is a call


class InFlight:
    """Keeps all requests that are waiting or with workers, and gives each its answer."""

    def __init__(
        self, limits: Limits, outbox: Outbox, counters: Counter[str], fairness: Fairness
    ) -> None:
        self.requests: dict[RequestId, Request] = {}
        self.fairness = fairness
        self.waiting = WaitingRoom(fairness)
        self.deadlines: Agenda[Request] = Agenda()
        self.accounts = Accounts(limits)
        self.is_draining = False
        self.is_tapped = False  # somebody follows what is accepted and answered
        self.outcomes: Counter[tuple[str, str]] = Counter()  # by policy and last state
        self.failures: Counter[tuple[str, str]] = Counter()  # by policy and code
        self._outbox = outbox
        self._counters = counters

    def __len__(self) -> int:
        """Requests accepted and not answered yet."""
        return len(self.requests)

    def enqueue(self, request: Request) -> None:
        """Accept a request, which then waits for a worker.

        An older one of its session that still waits is answered with `Superseded`.

        Raises:
            Superseded: a newer one of its session waits already.
        """
        displaced = self.waiting.add(request)
        if displaced is request:
            raise errors.Superseded("a newer observation waits")
        if displaced is not None:
            self._supersede(displaced)
        self.open(request)

    def open(self, request: Request) -> None:
        """Accept a request that a worker is given at once."""
        self._counters["accepted"] += 1
        self.requests[request.id] = request
        self.accounts.take(request.robot, request.size)
        if request.lane is not USUAL:
            self.fairness.take(request.lane)
        self.deadlines.add(request.deadline, request)
        if self.is_tapped:
            asked = {field: request.header[field] for field in _TOLD if field in request.header}
            self._tell(REQUEST, request, asked, request.payload)

    def requeue(self, request: Request, now: float) -> None:
        """Let a request wait for another worker, as its lease has ended without an answer."""
        request.move("requeue")
        request.queued_at = now
        displaced = self.waiting.add(request)
        if displaced is not None:
            self._supersede(displaced)

    def answer(self, request: Request, header: Header, payload: Payload) -> None:
        """Give a request its result."""
        if request.base and request.policy != header["version"]:
            self.waiting.remove(request)  # it had gone on to another version, and the first answers
            request.policy = header["version"]
        self._settle(request, "answer")
        if "id" in request.header:
            header["id"] = request.id
        self._outbox.commands.append(ToRobot(request.envelope, header, payload))
        if self.is_tapped:
            self._tell_answer(request, {"timing": header.get("timing", {})}, payload)

    def fail(self, request: Request, error: errors.PolicyError, cause: str = "fail") -> None:
        """Give a request an error as its final answer; `cause` is its move in the table."""
        self._settle(request, cause)
        self.count_failure(request, error)
        level = logging.DEBUG if isinstance(error, _EVERYDAY) else logging.WARNING
        robot = request.header.get("robot", "")
        text = f"a request got no result: {type(error).__name__}: {error}"
        self._outbox.log(level, text, request=str(request.id), robot=robot)
        self._outbox.refuse(request.envelope, request.header, error)
        if self.is_tapped:
            self._tell_answer(request, errors.to_wire(error))

    def count_failure(self, request: Request, error: errors.PolicyError) -> None:
        """Count an error by policy and code; robots could make up names, so they are bounded."""
        failure = request.policy or "", error.code()
        if failure in self.failures or len(self.failures) < _OUTCOMES:
            self.failures[failure] += 1

    def drain(self) -> None:
        """Accept no more requests and fail those that wait; the second time, fail all."""
        is_last_call, self.is_draining = self.is_draining, True
        for request in list(self.requests.values()):
            if is_last_call or not request.holders:
                self.fail(request, draining())
        if not is_last_call:
            text = f"no more requests are accepted, {len(self)} are still with workers"
            self._outbox.log(logging.INFO, text)

    def _tell_answer(self, request: Request, answer: Header, payload: Payload = ()) -> None:
        by = {"worker": request.worker.hex()[:8], "attempt": request.attempt}
        self._tell(ANSWER, request, {**by, **answer}, payload)

    def _tell(self, kind: str, request: Request, fields: Header, payload: Payload) -> None:
        header, robot = request.header, request.robot
        about = {
            "id": request.id,
            "policy": request.policy or header.get("policy", ""),
            "robot": header.get("robot", ""),
            "key": robot if isinstance(robot, str) else "",
            "session": header.get("session", ""),
            **fields,
        }
        self._outbox.commands.append(Tapped(kind, about, payload))

    def _supersede(self, request: Request) -> None:
        self.fail(request, errors.Superseded("a newer observation took its place"), "supersede")

    def _settle(self, request: Request, cause: str) -> None:
        if request.state is _WAITING:
            self.waiting.remove(request)
        request.move(cause)
        ending = _COUNTED[request.state]
        self._counters[ending] += 1
        outcome = request.policy or "", ending
        if outcome in self.outcomes or len(self.outcomes) < _OUTCOMES:
            self.outcomes[outcome] += 1
        self.deadlines.discard(request)
        del self.requests[request.id]
        self.accounts.give_back(request.robot, request.size)
        if request.lane is not USUAL:
            self.fairness.give_back(request.lane)
        request.payload = ()


def draining() -> errors.Draining:
    """The error of a broker that is stopping; it says how soon to ask again."""
    error = errors.Draining("this broker is stopping: ask another one, or this one when it is back")
    error.retry_after_s = RETRY_DRAINING_S
    return error
