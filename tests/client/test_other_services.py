"""Peers that are no brokers, and names that are no hosts: what the robot's user reads."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from client import ZmqPolicyClient, errors, policy_client

SSH = b"SSH-2.0-OpenSSH_9.6\r\n"
HTTP = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
TLS_ALERT = b"\x15\x03\x01\x00\x02\x02\x46"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST


@contextmanager
def service(says: bytes, *, listens: bool, resets: bool) -> Iterator[int]:
    """A TCP server that says something to each peer, perhaps hears it first, and hangs up."""
    stopped = threading.Event()

    def serve(server: socket.socket) -> None:
        while not stopped.is_set():
            with suppress(OSError):
                peer, _ = server.accept()
                with peer:
                    peer.settimeout(5.0)
                    if listens:
                        peer.recv(100)
                    peer.sendall(says)
                    if resets:
                        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            stopped.set()
            thread.join()


@pytest.mark.parametrize("resets", [False, True], ids=["closes", "resets"])
@pytest.mark.parametrize("listens", [False, True], ids=["at once", "when asked"])
@pytest.mark.parametrize(
    "says", [SSH, HTTP, TLS_ALERT, b"\xff", b""], ids=["ssh", "http", "tls", "a byte", "nothing"]
)
def test_a_service_that_answers_and_hangs_up(says: bytes, listens: bool, resets: bool) -> None:
    with (
        service(says, listens=listens, resets=resets) as port,
        pytest.raises(errors.ConnectionRefusedByPeer, match="something else answers"),
    ):
        ZmqPolicyClient("127.0.0.1", port, connect_timeout_s=2.0)


@pytest.mark.parametrize("says", [SSH, b""], ids=["ssh", "nothing"])
def test_a_short_last_wait_does_not_forget_what_answered(
    says: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last slice of the time to connect may be too short to learn anything in it."""
    monkeypatch.setattr(policy_client, "_WAITING_NOTICE_S", 0.3999)
    with (
        service(says, listens=False, resets=False) as port,
        pytest.raises(errors.ConnectionRefusedByPeer, match="something else answers"),
    ):
        ZmqPolicyClient("127.0.0.1", port, connect_timeout_s=0.4)


def test_a_peer_that_hangs_up_at_once_is_asked_less_and_less_often() -> None:
    """By itself, libzmq tries again a hundred times a second, as each connection is accepted."""
    accepted = 0
    stopped = threading.Event()

    def hang_up() -> None:
        nonlocal accepted
        while not stopped.is_set():
            with suppress(OSError):
                server.accept()[0].close()
                accepted += 1

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(errors.ConnectionRefusedByPeer, match="something else answers"):
            ZmqPolicyClient("127.0.0.1", server.getsockname()[1], connect_timeout_s=3.0)
        stopped.set()
        thread.join()
    assert 5 <= accepted <= 40


def test_who_hung_up_once_and_is_not_there_any_more() -> None:
    """So does a broker that is killed while a robot connects."""
    server = socket.create_server(("127.0.0.1", 0))

    def hang_up_and_leave() -> None:
        with server:
            server.accept()[0].close()

    leaving = threading.Thread(target=hang_up_and_leave)
    leaving.start()
    with pytest.raises(errors.BrokerUnreachable, match="no broker answers"):
        ZmqPolicyClient("127.0.0.1", server.getsockname()[1], connect_timeout_s=3.0)
    leaving.join()


def test_a_host_name_without_an_address() -> None:
    threads = threading.active_count()
    with pytest.raises(errors.BrokerUnreachable, match=r"robot\.invalid:8000 has no address"):
        ZmqPolicyClient("robot.invalid", connect_timeout_s=5.0)
    assert threading.active_count() == threads


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_host_with_an_address_is_not_said_to_have_none(host: str) -> None:
    with socket.socket() as unused:  # bound and not listening: nobody else can have the port
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(errors.BrokerUnreachable, match="no broker answers"):
            ZmqPolicyClient(host, unused.getsockname()[1], connect_timeout_s=0.4)
