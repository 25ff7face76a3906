"""The outbox of the core: messages to be sent and lines to be logged."""

from __future__ import annotations

from collections import Counter, deque

from broker.events import Command, Log, Payload, ToRobot, ToWorker
from client import errors
from client.wire import VERSION, Header

_ERRORS = 50  # kept for people to read
_LONGEST = 400  # characters of each
# Robots cause these in everyday operation.
_EVERYDAY = ("superseded", "cancelled", "draining")


class Outbox:
    """Collects the commands that one event leads to, in order; `Core.handle` empties it."""

    def __init__(self, epoch: int, counters: Counter[str]) -> None:
        self.epoch = epoch
        self.commands: list[Command] = []
        self._counters = counters
        self._told = 0
        # The latest for people: a number, robot, policy, code and message.
        self.errors: deque[tuple[int, str, str, str, str]] = deque(maxlen=_ERRORS)

    def reply(self, envelope: Payload, request: Header, kind: str, payload: Payload = ()) -> None:
        """Answer a robot's message that was not a request for actions."""
        self.commands.append(ToRobot(envelope, _reply_header(request, kind), payload))

    def refuse(self, envelope: Payload, request: Header, error: errors.PolicyError) -> None:
        """Answer a robot's message with an error."""
        code = error.code()
        self._counters[f"error {code}"] += 1
        if code not in _EVERYDAY:
            self._told += 1
            robot, policy = request.get("robot", ""), request.get("policy", "")
            self.errors.append((self._told, robot, policy, code, str(error)[:_LONGEST]))
        self.commands.append(ToRobot(envelope, error_header(request, error)))

    def tell(self, worker: bytes, kind: str, payload: Payload = (), **fields: object) -> None:
        """Send a worker a message with these header fields."""
        header = {"v": VERSION, "kind": kind, "epoch": self.epoch, **fields}
        self.commands.append(ToWorker(worker, header, payload))

    def log(self, level: int, text: str, **about: str) -> None:
        """Write a line to the log; `about` names the request, worker or robot that it concerns."""
        self.commands.append(Log(level, text, about))


def error_header(request: Header, error: errors.PolicyError) -> Header:
    """The header that answers a request, as far as it could be read, with an error."""
    header = _reply_header(request, "error")
    header.update(errors.to_wire(error))
    return header


def _reply_header(request: Header, kind: str) -> Header:
    header = {"v": VERSION, "kind": kind}
    if "id" in request:
        header["id"] = request["id"]
    return header
