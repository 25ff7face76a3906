"""A worker that has other brokers too: what the core may give it, and what it tells it."""

from __future__ import annotations

from typing import Any

import pytest

from broker.config import BrokerConfig
from broker.core import Core
from broker.dispatch import predicted_wait_s
from broker.events import Command, RobotMessage, ToRobot, ToWorker, WorkerMessage
from client.wire import Header, RequestId

EPOCH = 7


class Broker:
    """A core with one shared worker of two slots, which lets it have `slots` of them."""

    def __init__(self, slots: int) -> None:
        self.now = 10.0
        self.core = Core(BrokerConfig(), EPOCH, 0.0)
        self._asked = 0
        self.say("hello", policy="arm", incarnation=bytes(16), slots=2, payload=[b"\x80"])
        self.say("ready", slots=slots, grant=1, inference_ms=10.0)

    def say(
        self, kind: str, payload: Any = (), worker: bytes = b"w", **fields: Any
    ) -> list[Command]:
        """The worker says something, or another one."""
        header = {"v": 1, "kind": kind, "epoch": EPOCH, **fields}
        return self.core.handle(WorkerMessage(worker, header, payload), self.now)

    def beat(self, slots: int, grant: int) -> list[Command]:
        """It tells how many it lets this broker have."""
        return self.say("heartbeat", n=0, ids=[], state="ready", slots=slots, grant=grant)

    def ask(self) -> list[Command]:
        """A robot asks."""
        self._asked += 1
        id = RequestId(b"robot", self._asked)
        header = {"v": 1, "kind": "infer", "id": id, "policy": "arm", "session": str(id)}
        message = RobotMessage(b"r", [b"r", b""], header, [b"\x80"])
        return self.core.handle(message, self.now)


def told(commands: list[Command]) -> list[Header]:
    fields = ("kind", "grant", "waiting", "n")
    return [
        {field: command.header[field] for field in fields if field in command.header}
        for command in commands
        if isinstance(command, ToWorker)
    ]


def kinds(commands: list[Command]) -> list[str]:
    return [header["kind"] for header in told(commands)]


def test_it_is_given_no_more_than_it_lets_us_have() -> None:
    broker = Broker(1)
    assert kinds(broker.ask()) == ["infer"]
    assert kinds(broker.ask()) == ["heartbeat"]
    assert kinds(broker.beat(2, 2)) == ["infer"]


def test_without_a_slot_it_asks_for_some_once() -> None:
    broker = Broker(0)
    (asked,) = told(broker.ask())
    assert (asked["kind"], asked["waiting"], asked["grant"]) == ("heartbeat", 1, 1)
    assert told(broker.ask()) == []
    assert told(broker.beat(1, 2))[0]["waiting"] == 1  # with the request that it gets


def test_what_is_taken_back_is_acknowledged_before_anything_else_is_sent() -> None:
    broker = Broker(2)
    broker.ask()
    (answer,) = told(broker.beat(0, 2))
    assert (answer["kind"], answer["grant"]) == ("heartbeat", 2)
    assert kinds(broker.ask()) == ["heartbeat"]


def test_a_word_that_is_older_than_the_last_is_not_believed() -> None:
    broker = Broker(0)
    broker.beat(0, 5)
    broker.ask()
    assert told(broker.beat(2, 4)) == []


def test_a_welcome_says_whether_it_remembers_what_it_gave() -> None:
    broker = Broker(1)
    again = broker.say("hello", policy="arm", incarnation=bytes(16), slots=2, payload=[b"\x80"])
    assert told(again)[0] == {"kind": "welcome", "grant": 1}


def test_a_worker_of_one_broker_hears_nothing_of_all_this() -> None:
    broker = Broker(1)
    broker.say("ready", slots=2)
    (infer,) = told(broker.ask())
    assert infer == {"kind": "infer"}


def test_a_wait_is_predicted_as_if_all_slots_could_be_had() -> None:
    broker = Broker(0)
    workers = broker.core.pool.serving("arm")
    assert predicted_wait_s(2, workers) == pytest.approx(0.01)


def test_a_request_is_not_refused_for_want_of_a_slot() -> None:
    broker = Broker(0)
    commands = [*broker.ask(), *broker.ask()]
    assert not any(isinstance(command, ToRobot) for command in commands)


def test_a_slot_that_comes_when_nothing_waits_any_more_is_offered_back_at_once() -> None:
    broker = Broker(0)
    hello = {"policy": "arm", "incarnation": bytes(16), "slots": 2}
    broker.say("hello", [b"\x80"], b"v", **hello)
    broker.say("ready", worker=b"v", slots=0, grant=1, inference_ms=10.0)
    assert [header["waiting"] for header in told(broker.ask())] == [1, 1]
    assert kinds(broker.beat(1, 2)) == ["infer"]
    late: Any = {"n": 0, "ids": [], "state": "ready", "slots": 1, "grant": 2}
    (offer,) = told(broker.say("heartbeat", worker=b"v", **late))
    assert (offer["kind"], offer["waiting"]) == ("heartbeat", 0)
