"""Addresses that cannot be bound, and what is refused before a header is looked at."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from socket import AF_UNIX
from socket import socket as Unix

import pytest
import zmq

from broker.config import BrokerConfig
from broker.doors import CannotBind, check_frames, open_backend, open_frontend
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


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as made:
        yield made


@pytest.mark.parametrize(
    ("address", "advice"),
    [
        ("tcp://203.0.113.7:5001", r"has no such address\. .* frontend=tcp://0\.0\.0\.0:5001$"),
        ("tcp://no-such-name:5001", r"interface of that name\. .*=tcp://0\.0\.0\.0:5001$"),
        ("ipc:///no/such/folder/broker", "its folder does not exist"),
        ("ipc:///tmp/" + 200 * "x", "is longer than 107 characters"),
    ],
)
def test_an_address_that_cannot_be_bound_is_told_with_what_to_do(
    context: zmq.Context[zmq.Socket[bytes]], address: str, advice: str
) -> None:
    with pytest.raises(CannotBind, match=f"^cannot bind frontend={address}: .*{advice}"):
        open_frontend(context, BrokerConfig(frontend=address), None)


@pytest.mark.parametrize("scheme", ["tcp", "ipc"])
def test_an_address_in_use_is_told_by_its_setting(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path, scheme: str
) -> None:
    taken = f"tcp://127.0.0.1:{free_ports(1)[0]}" if scheme == "tcp" else f"ipc://{tmp_path}/door"
    expected = f"cannot bind backend={re.escape(taken)}: it is in use. Is another broker running"
    with (
        open_frontend(context, BrokerConfig(frontend=taken), None),
        pytest.raises(CannotBind, match=expected),
    ):
        open_backend(context, BrokerConfig(backend=taken), None)


def test_a_path_that_a_killed_process_has_left_is_bound_again(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    with Unix(AF_UNIX) as left:
        left.bind(str(tmp_path / "door"))
    assert (tmp_path / "door").is_socket()
    open_frontend(context, BrokerConfig(frontend=f"ipc://{tmp_path}/door"), None).close()


def test_a_file_is_not_replaced_by_a_socket(
    context: zmq.Context[zmq.Socket[bytes]], tmp_path: Path
) -> None:
    (tmp_path / "notes").write_text("important")
    with pytest.raises(CannotBind, match="a file of that name is there, and it is no socket"):
        open_frontend(context, BrokerConfig(frontend=f"ipc://{tmp_path}/notes"), None)
    assert (tmp_path / "notes").read_text() == "important"
