"""Messages of the tap: what is read from them, and what is refused."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from client.errors import ProtocolError, VersionMismatch
from client.tap import Losses, decode_tapped, encode_tapped, topic, topics
from client.wire import RequestId

HEADER: dict[str, Any] = {
    "kind": "answer",
    "n": 3,
    "at": 1.5,
    "id": RequestId(b"c", 7),
    "code": "x",
}


def test_what_is_encoded_is_decoded() -> None:
    message = decode_tapped([topic("p", "r"), encode_tapped(HEADER), b"body", b"buffer"])
    assert (message.topic, message.kind, message.number) == (b"p\0r\0", "answer", 3)
    assert (message.at, message.id) == (1.5, (b"c", 7))
    assert message.fields["code"] == "x"
    assert message.payload == [b"body", b"buffer"]


def test_a_policys_topic_is_the_beginning_of_its_robots() -> None:
    assert topic("p", "r").startswith(topic("p"))
    assert not topic("pp", "r").startswith(topic("p"))


def test_a_policys_topics_have_its_versions_too() -> None:
    def has(policy: str, wanted: str) -> bool:
        return any(topic(policy, "r").startswith(each) for each in topics(wanted, "r"))

    assert all([has("p", "p"), has("p@1", "p"), has("p@1", "p@1")])
    assert not any([has("pp", "p"), has("pp@1", "p"), has("p@11", "p@1"), has("p", "p@1")])


@pytest.mark.parametrize(
    "frames",
    [
        [],
        [b"topic"],
        [b"topic", b""],
        [b"topic", b"garbage"],
        [b"topic", msgpack.packb([1, 2])],
        [b"topic", msgpack.packb({})],
        [b"topic", msgpack.packb({"v": 1, **HEADER, "id": 7})],
        [b"topic", msgpack.packb({"v": 1, **HEADER, "n": "three"})],
        [b"topic", msgpack.packb({"v": 1, **HEADER, "at": None})],
        [b"topic", msgpack.packb({"v": 1, **HEADER, "long": "x" * 10_000})],
    ],
)
def test_what_is_no_message_of_a_tap_is_refused(frames: list[bytes]) -> None:
    with pytest.raises(ProtocolError, match="no message of a tap"):
        decode_tapped(frames)


def test_a_later_version_is_named() -> None:
    with pytest.raises(VersionMismatch, match="v=2: this program reads 1"):
        decode_tapped([b"", msgpack.packb({**HEADER, "v": 2})])


def test_losses_are_counted_by_topic() -> None:
    losses = Losses()

    def seen(policy: str, number: int) -> int:
        header = encode_tapped({**HEADER, "n": number})
        return losses.seen(decode_tapped([topic(policy), header]))

    assert [seen("a", 5), seen("a", 6), seen("b", 1), seen("a", 9), seen("b", 2)] == [0, 0, 0, 2, 0]
    assert losses.count == 2
    assert seen("a", 1) == 0  # the broker was restarted
    assert seen("a", 2) == 0
