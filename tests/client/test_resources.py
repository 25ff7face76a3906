"""What clients take of a process they give back: sockets, file descriptors and threads."""

from __future__ import annotations

import errno
import gc
import os
import threading
import time
from collections.abc import Callable

import pytest
import zmq

from client import ZmqPolicyClient, errors
from tests.client.scripted_broker import ScriptedBroker

WAIT_S = 60.0
FDS = "/proc/self/fd"

pytestmark = pytest.mark.skipif(not os.path.isdir(FDS), reason="counts file descriptors in /proc")


def used() -> tuple[int, int]:
    return len(os.listdir(FDS)), threading.active_count()


def assert_all_given_back(make: Callable[[], object], times: int) -> None:
    """Libzmq frees a closed socket a moment later, and keeps some for the next."""
    gc.disable()  # nothing may wait for the collector
    try:
        make()
        before = used()
        for _ in range(times):
            make()
        give_up = time.monotonic() + WAIT_S
        while used() > before:
            assert time.monotonic() < give_up, f"{before} became {used()}"
            time.sleep(0.01)
    finally:
        gc.enable()


def test_many_clients_one_after_another() -> None:
    with ScriptedBroker() as broker:

        def make() -> None:
            with ZmqPolicyClient("127.0.0.1", broker.port, timeout_s=WAIT_S) as client:
                client.infer({})

        assert_all_given_back(make, 300)


@pytest.mark.parametrize("host", ["nonsense://x", "127.0.0.1"])
def test_constructors_that_fail(host: str) -> None:
    def make() -> None:
        with pytest.raises(errors.BrokerUnreachable):
            ZmqPolicyClient(host, 1, connect_timeout_s=0.01)

    assert_all_given_back(make, 50)


@pytest.mark.parametrize("fails", ["monitor", "setsockopt"])
def test_a_socket_that_cannot_be_had(fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the process has no file descriptor left."""

    def exhausted(_: object, first: object, *__: object) -> None:
        if first is not None:  # with which a monitor is ended
            raise zmq.ZMQError(errno.EMFILE)

    def make() -> None:
        with pytest.raises(errors.BrokerUnreachable, match="Too many open files"):
            ZmqPolicyClient("127.0.0.1", 1, connect_timeout_s=0.01)

    monkeypatch.setattr(zmq.Socket, fails, exhausted)
    assert_all_given_back(make, 5)
