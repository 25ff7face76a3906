"""What is refused at the doors before a header is looked at, and what a refusal says."""

from __future__ import annotations

import threading

import pytest
import zmq

from broker.config import BrokerConfig
from broker.doors import check_frames
from broker.shell import Shell
from client.errors import ProtocolError
from client.wire import MAX_FRAMES, MAX_HEADER, TO_CLIENT, decode_header, encode_header
from scripts.local.processes import free_ports

PING = encode_header({"v": 1, "kind": "ping"})


@pytest.mark.parametrize(
    ("hops", "frames", "says"),
    [
        (9, [PING], "return envelope has 9 frames before the empty one: at most 8"),
        (100, [PING], "return envelope has 100 frames"),
        (0, [PING, *[b"b"] * MAX_FRAMES], f"{MAX_FRAMES + 1} frames: at most {MAX_FRAMES}"),
        (0, [bytes(MAX_HEADER + 1)], f"header of {MAX_HEADER + 1} bytes: at most {MAX_HEADER}"),
        (0, [], "the message is empty"),
    ],
)
def test_each_limit_says_what_was_counted(hops: int, frames: list[bytes], says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        check_frames([b"sender", *[b"hop"] * hops, b""], frames)


def test_what_is_within_the_limits_passes() -> None:
    check_frames([b"sender", *[b"hop"] * 8, b""], [bytes(MAX_HEADER), *[b"b"] * (MAX_FRAMES - 1)])
    check_frames([b"worker"], [PING])


def test_a_peer_behind_too_many_routers_is_told_so() -> None:
    front, back = free_ports(2)
    shell = Shell(
        BrokerConfig(frontend=f"tcp://127.0.0.1:{front}", backend=f"tcp://127.0.0.1:{back}")
    )
    running = threading.Thread(target=shell.run, daemon=True)
    running.start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(f"tcp://127.0.0.1:{front}")
        envelope = [b"%d" % hop for hop in range(20)] + [b""]
        socket.send_multipart([*envelope, PING])
        assert socket.poll(30_000)
        answer = socket.recv_multipart()
    shell.stop("the test is over")
    running.join(30.0)
    assert not running.is_alive()
    assert answer[:-1] == envelope
    header = decode_header(answer[-1], TO_CLIENT)
    assert header["code"] == "protocol_error"
    assert "return envelope has 20 frames" in header["message"]
