"""What fuzzing and killing processes have found, each as a test of its own."""

from __future__ import annotations

import msgpack
import numpy as np
import pytest

from broker.config import BrokerConfig
from broker.core import Core
from broker.events import ConnectionLost, RobotMessage, Tick, ToRobot, ToWorker, WorkerMessage
from client.body import decode_body
from client.errors import ProtocolError
from client.wire import LONGEST_MS, TO_CLIENT, Header, decode_header, encode_header

EPOCH = 1
NO_CHARACTER = b"\xff\xff\xff\xff"  # as UTF-32


def text(data: bytes, dtype: str = "<U1") -> bytes:
    array = {"nd": True, "type": dtype, "kind": "", "shape": [1], "data": data}
    return bytes(msgpack.packb({"text": array}))


def test_text_that_is_no_unicode_is_refused() -> None:
    # numpy takes it, and raises SystemError when somebody prints it.
    for dtype in ("<U1", ">U1"):
        with pytest.raises(ProtocolError, match="Unicode"):
            decode_body([text(NO_CHARACTER, dtype)])
    assert decode_body([text("é".encode("utf-32-le"))])["text"] == np.array(["é"])


def test_what_follows_a_body_is_not_quoted() -> None:
    # msgpack's error holds the body that it had read; its repr took the worker with it.
    with pytest.raises(ProtocolError, match="extra data"):
        decode_body([text("a".encode("utf-32-le")) + b"more"])


def core_with_worker(inference_ms: float = 1.0) -> Core:
    core = Core(BrokerConfig(), EPOCH, now=0.0)
    hello: Header = {"kind": "hello", "policy": "arm", "incarnation": bytes(16)}
    for fields in (hello, {"kind": "ready", "slots": 1, "inference_ms": inference_ms}):
        core.handle(WorkerMessage(b"w", {"v": 1, "epoch": EPOCH, **fields}, (b"about",)), 0.0)
    return core


def test_a_retry_after_is_never_longer_than_clients_believe() -> None:
    core = core_with_worker(inference_ms=LONGEST_MS)
    answers = []
    for robot in range(5):
        header = {"v": 1, "kind": "infer", "id": [bytes([robot]) * 16, 0], "policy": "arm"}
        header["deadline_ms"] = 1000.0
        asked = decode_header(encode_header(header))
        message = RobotMessage(bytes([robot]), (bytes([robot]), b""), asked, (b"body",))
        answers += [each for each in core.handle(message, 0.0) if isinstance(each, ToRobot)]
    assert answers
    for answer in answers:
        reply = decode_header(encode_header(answer.header), TO_CLIENT)
        assert reply["code"] == "overloaded"
        assert 0 < reply["retry_after_ms"] <= LONGEST_MS


def test_a_lost_connection_is_asked_about_again_before_the_next_heartbeat() -> None:
    # The monitor may be ahead of the socket: then the first probe is taken for delivered.
    core = core_with_worker()
    core.handle(Tick(), 0.0)
    asked_at = 0.001
    core.handle(ConnectionLost((b"w",)), asked_at)
    again_at = core.wake_at()
    assert asked_at < again_at <= asked_at + 0.02
    told = [each for each in core.handle(Tick(), again_at) if isinstance(each, ToWorker)]
    assert [each.header["kind"] for each in told] == ["heartbeat"]


def test_a_stranger_that_leaves_wakes_nobody() -> None:
    core = core_with_worker()
    core.handle(Tick(), 0.0)
    before = core.wake_at()
    assert core.handle(ConnectionLost((b"nobody",)), 0.001) == []
    assert core.wake_at() == before
