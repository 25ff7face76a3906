"""Requests in flight: everything from a request's acceptance to its one final answer."""

from __future__ import annotations

import logging
from collections import Counter

from broker.accounts import Accounts
from broker.agenda import Agenda
from broker.config import Limits
from broker.events import Payload, ToRobot
from broker.outbox import Outbox
from broker.requests import Request, WaitingRoom
from client import errors
from client.wire import Header, RequestId

RETRY_S = 1.0  # after which a refused robot may try again, if nothing better is known
# A broker that is told to stop while it is idle has left by then, and a new one may be there.
RETRY_DRAINING_S = 0.25
# Robots cause these in everyday operation, so they are logged for debugging only.
_EVERYDAY = (errors.Superseded, errors.Cancelled, errors.Draining)


class InFlight:
    """Keeps all requests that are waiting or with workers, and gives each its answer."""

    def __init__(self, limits: Limits, outbox: Outbox, counters: Counter[str]) -> None:
        self.requests: dict[RequestId, Request] = {}
        self.waiting = WaitingRoom()
        self.deadlines: Agenda[Request] = Agenda()
        self.accounts = Accounts(limits)
        self.is_draining = False
        self._outbox = outbox
        self._counters = counters

    def __len__(self) -> int:
        """Requests accepted and not answered yet."""
        return len(self.requests)

    def open(self, request: Request) -> None:
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
        self._counters["accepted"] += 1
        self.requests[request.id] = request
        self.accounts.take(request.robot, request.size)
        self.deadlines.add(request.deadline, request)

    def requeue(self, request: Request, now: float) -> None:
        """Let a request wait for another worker, as its lease has ended without an answer."""
        request.move("requeue")
        request.queued_at = now
        displaced = self.waiting.add(request)
        if displaced is not None:
            self._supersede(displaced)

    def answer(self, request: Request, header: Header, payload: Payload) -> None:
        """Give a request its result."""
        self._settle(request, "answer")
        if "id" in request.header:
            header["id"] = request.id
        self._outbox.commands.append(ToRobot(request.envelope, header, payload))

    def fail(self, request: Request, error: errors.PolicyError, cause: str = "fail") -> None:
        """Give a request an error as its final answer; `cause` is its move in the table."""
        self._settle(request, cause)
        level = logging.DEBUG if isinstance(error, _EVERYDAY) else logging.WARNING
        robot = request.header.get("robot", "")
        text = f"a request got no result: {type(error).__name__}: {error}"
        self._outbox.log(level, text, request=str(request.id), robot=robot)
        self._outbox.refuse(request.envelope, request.header, error)

    def drain(self) -> None:
        """Accept no more requests and fail those that wait; the second time, fail all."""
        is_last_call, self.is_draining = self.is_draining, True
        for request in list(self.requests.values()):
            if is_last_call or not request.holders:
                self.fail(request, draining())
        if not is_last_call:
            text = f"no more requests are accepted, {len(self)} are still with workers"
            self._outbox.log(logging.INFO, text)

    def _supersede(self, request: Request) -> None:
        self.fail(request, errors.Superseded("a newer observation took its place"), "supersede")

    def _settle(self, request: Request, cause: str) -> None:
        request.move(cause)
        self._counters[request.state.value] += 1
        self.waiting.remove(request)
        self.deadlines.discard(request)
        del self.requests[request.id]
        self.accounts.give_back(request.robot, request.size)
        request.payload = ()


def draining() -> errors.Draining:
    """The error of a broker that is stopping; it says how soon to ask again."""
    error = errors.Draining("this broker is stopping: ask another one, or this one when it is back")
    error.retry_after_s = RETRY_DRAINING_S
    return error
