"""Peers that are no brokers, and names that are no hosts: what the robot's user reads.

What most of them wait for is the end of the time to connect, so they wait for it together.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import product
from typing import NamedTuple

import pytest

from client import ZmqPolicyClient, errors, policy_client

SSH = b"SSH-2.0-OpenSSH_9.6\r\n"
HTTP = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
TLS_ALERT = b"\x15\x03\x01\x00\x02\x02\x46"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST
SAID = {"ssh": SSH, "http": HTTP, "tls": TLS_ALERT, "a byte": b"\xff", "nothing": b""}
LISTENS, RESETS = {"at once": False, "when asked": True}, {"closes": False, "resets": True}
CONNECT_S = 3.0


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


def failure(host: str, port: int = 8000) -> Exception | None:
    """What a robot that connects there gets."""
    try:
        ZmqPolicyClient(host, port, connect_timeout_s=CONNECT_S).close()
    except (errors.PolicyError, ConnectionError) as error:
        return error
    return None


def of_a_service(says: str, listens: str, resets: str) -> Exception | None:
    with service(SAID[says], listens=LISTENS[listens], resets=RESETS[resets]) as port:
        return failure("127.0.0.1", port)


def of_one_that_hangs_up_at_once() -> tuple[Exception | None, int]:
    """And how often it was asked."""
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
        error = failure("127.0.0.1", server.getsockname()[1])
        stopped.set()
        thread.join()
    return error, accepted


def of_one_that_leaves() -> Exception | None:
    server = socket.create_server(("127.0.0.1", 0))

    def hang_up_and_leave() -> None:
        with server:
            server.accept()[0].close()

    leaving = threading.Thread(target=hang_up_and_leave)
    leaving.start()
    error = failure("127.0.0.1", server.getsockname()[1])
    leaving.join()
    return error


class Told(NamedTuple):
    """What robots got of each of these, and which threads they left behind."""

    services: dict[tuple[str, str, str], Exception | None]
    at_once: tuple[Exception | None, int]
    left: Exception | None
    unresolved: Exception | None
    threads: set[threading.Thread]


@pytest.fixture(scope="module")
def told() -> Told:
    before = set(threading.enumerate())
    cases = list(product(SAID, LISTENS, RESETS))
    with ThreadPoolExecutor(len(cases) + 3) as pool:
        services = {case: pool.submit(of_a_service, *case) for case in cases}
        at_once = pool.submit(of_one_that_hangs_up_at_once)
        left = pool.submit(of_one_that_leaves)
        unresolved = pool.submit(failure, "robot.invalid")
    return Told(
        {case: future.result() for case, future in services.items()},
        at_once.result(),
        left.result(),
        unresolved.result(),
        set(threading.enumerate()) - before,
    )


@pytest.mark.parametrize("resets", RESETS)
@pytest.mark.parametrize("listens", LISTENS)
@pytest.mark.parametrize("says", SAID)
def test_a_service_that_answers_and_hangs_up(
    told: Told, says: str, listens: str, resets: str
) -> None:
    with pytest.raises(errors.ConnectionRefusedByPeer, match="something else answers"):
        raise_it(told.services[says, listens, resets])


def raise_it(error: Exception | None) -> None:
    """Raise what a robot got, if it got anything."""
    if error is not None:
        raise error


@pytest.mark.parametrize("says", [SSH, b""], ids=["ssh", "nothing"])
def test_a_short_last_wait_does_not_forget_what_answered(
    says: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last slice of the time to connect may be too short to learn anything in it."""
    monkeypatch.setattr(policy_client, "_WAITING_NOTICE_S", 0.9999)
    with (
        service(says, listens=False, resets=False) as port,
        pytest.raises(errors.ConnectionRefusedByPeer, match="something else answers"),
    ):
        ZmqPolicyClient("127.0.0.1", port, connect_timeout_s=1.0)


def test_a_peer_that_hangs_up_at_once_is_asked_less_and_less_often(told: Told) -> None:
    """By itself, libzmq tries again a hundred times a second, as each connection is accepted."""
    error, accepted = told.at_once
    with pytest.raises(errors.ConnectionRefusedByPeer, match="something else answers"):
        raise_it(error)
    assert 5 <= accepted <= 40


def test_who_hung_up_once_and_is_not_there_any_more(told: Told) -> None:
    """So does a broker that is killed while a robot connects."""
    with pytest.raises(errors.BrokerUnreachable, match="no broker answers"):
        raise_it(told.left)


def test_a_host_name_without_an_address(told: Told) -> None:
    with pytest.raises(errors.BrokerUnreachable, match=r"robot\.invalid:8000 has no address"):
        raise_it(told.unresolved)


def test_no_thread_is_left_of_any_of_them(told: Told) -> None:
    assert told.threads == set()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_host_with_an_address_is_not_said_to_have_none(host: str) -> None:
    with socket.socket() as unused:  # bound and not listening: nobody else can have the port
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(errors.BrokerUnreachable, match="no broker answers"):
            ZmqPolicyClient(host, unused.getsockname()[1], connect_timeout_s=0.4)
