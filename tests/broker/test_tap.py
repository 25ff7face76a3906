"""What the core tells at the tap, and which addresses a tap may have."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import zmq

from broker.config import BrokerConfig, Limits
from broker.events import RobotMessage, Tapped
from broker.tap import Tap
from client.tap import ANSWER, REQUEST
from client.wire import RequestId
from tests.broker.scenario import Scenario


class Followed(Scenario):
    """A scenario whose messages to the tap are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Tapped] = []
        handle = self.core.handle

        def listening(event: Any, now: float) -> Any:
            commands = handle(event, now)
            self.heard += [each for each in commands if isinstance(each, Tapped)]
            return commands

        self.core.handle = listening  # type: ignore[method-assign]


@pytest.fixture
def followed() -> Followed:
    scenario = Followed()
    scenario.join("w")
    scenario.core.inflight.is_tapped = True
    return scenario


def test_nothing_is_told_while_nobody_listens() -> None:
    scenario = Followed()
    scenario.join("w")
    scenario.ask("arm")
    scenario.finish("w")
    assert scenario.heard == []


def test_a_request_and_its_answer(followed: Followed) -> None:
    followed.ask("arm", session="a", priority=3, host=b"h", memory=b"m", written=7)
    followed.finish("w", timing={"infer_ms": 5.0})
    asked, answered = followed.heard
    assert (asked.kind, answered.kind) == (REQUEST, ANSWER)
    for each in (asked, answered):
        assert each.about["id"] == RequestId(b"arm".ljust(16), 1)
        assert (each.about["policy"], each.about["robot"]) == ("p", "")
        assert (each.about["session"], each.about["key"]) == ("a", "")
    assert {"priority": 3, "memory": b"m", "written": 7}.items() <= asked.about.items()
    assert "host" not in asked.about
    assert answered.about["worker"] == b"w".hex()[:8]
    assert answered.about["attempt"] == 1
    assert answered.about["timing"]["infer_ms"] == 5.0
    assert "queue_ms" in answered.about["timing"]


def test_every_request_has_one_answer_whatever_becomes_of_it(followed: Followed) -> None:
    followed.ask("arm", session="a")
    for _ in range(3):  # each takes the place of the one before it
        followed.ask("arm", session="b")
    followed.finish("w", "failure", code="policy_failed", message="no such joint")
    followed.after(60.0)
    asked = [each.about["id"] for each in followed.heard if each.kind == REQUEST]
    answers = {
        each.about["id"]: each.about["code"] for each in followed.heard[1:] if "code" in each.about
    }
    assert sorted(asked) == sorted(answers)
    assert len(asked) == len(set(asked)) == 4
    assert answers[asked[0]] == "policy_failed"
    assert [answers[id] for id in asked[1:3]] == ["superseded", "superseded"]


def test_what_is_refused_is_not_told(followed: Followed) -> None:
    followed.ask("arm", policy="unknown")
    assert [each for each in followed.heard if each.kind == REQUEST] == []


def test_a_key_is_told_by_its_name(followed: Followed) -> None:
    header = {"v": 1, "kind": "infer", "id": RequestId(b"c" * 16, 1), "robot": "left"}
    message = RobotMessage(b"r", (b"r", b""), header, (b"\x80",), "arm-1")
    followed.core.handle(message, followed.now)
    assert followed.heard[-1].about["key"] == "arm-1"


@pytest.mark.parametrize(
    ("tap", "settings", "reason"),
    [
        ("tcp://0.0.0.0:9000", {}, "open to other machines"),
        ("tcp://0.0.0.0:9000", {"insecure": True}, "open to other machines"),
        ("tcp://192.168.1.5:9000", {"insecure": True}, "open to other machines"),
        ("tcp://127.0.0.1:9000", {"keys": "keys"}, "only a path will do"),
        ("ipc://@tap", {"keys": "keys"}, "only a path will do"),
        ("tcp://127.0.0.1:0", {}, "a port from 1"),
        ("tcp://127.0.0.1:8000", {}, "which is the frontend"),
        ("9000", {}, "ipc://PATH"),
        ("", {}, "one address"),
        ("ipc:///a,ipc:///b", {}, "one address"),
    ],
)
def test_addresses_that_are_refused(tap: str, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        BrokerConfig(tap=tap, **settings).check()


def test_addresses_that_are_taken() -> None:
    for tap in ("tcp://127.0.0.1:9000", "tcp://[::1]:9000", "ipc:///tmp/tap", "ipc://@tap", None):
        BrokerConfig(tap=tap).check()
    BrokerConfig(tap="ipc:///tmp/tap", keys="keys").check()


def test_only_the_brokers_user_can_open_a_path(tmp_path: Path) -> None:
    path = tmp_path / "tap"
    tap = Tap(BrokerConfig(), f"ipc://{path}", Counter())
    try:
        assert path.stat().st_mode & 0o077 == 0
        kept = int(tap.socket.getsockopt(zmq.SNDHWM))
        limits = Limits()
        assert kept * limits.max_bytes <= limits.max_tap_bytes
    finally:
        tap.close()
