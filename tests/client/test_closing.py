"""Ending a client: from a signal handler, from another thread, twice, and under foreign hands."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest
import zmq

from client import ZmqPolicyClient, errors
from tests.client.scripted_broker import ScriptedBroker, silence

WAIT_S = 60.0  # for what should take milliseconds; the machine may be busy


def connect(broker: ScriptedBroker) -> ZmqPolicyClient:
    return ZmqPolicyClient("127.0.0.1", broker.port, timeout_s=WAIT_S)


@contextmanager
def on_alarm(handler: Callable[[], object], broker: ScriptedBroker) -> Iterator[None]:
    """Have `handler` run as a signal handler, once the broker has been asked something."""

    def handle(number: int, frame: FrameType | None) -> None:
        handler()

    def ring() -> None:
        while not broker.requests:
            time.sleep(0.005)
        os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    bell = threading.Thread(target=ring)
    bell.start()
    try:
        yield
    finally:
        bell.join()
        signal.signal(signal.SIGUSR1, before)


def test_close_in_a_signal_handler_ends_the_call() -> None:
    with ScriptedBroker(silence) as broker:
        client = connect(broker)
        with on_alarm(client.close, broker), pytest.raises(errors.ClientClosed):
            client.infer({})
        with pytest.raises(errors.ClientClosed):
            client.infer({})


def test_close_in_another_thread_ends_the_call_and_returns_at_once() -> None:
    with ScriptedBroker(silence) as broker:
        client = connect(broker)
        ended: list[errors.PolicyError] = []

        def ask() -> None:
            try:
                client.infer({})
            except errors.PolicyError as error:
                ended.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        while not broker.requests:
            time.sleep(0.005)
        client.close()
        client.close()
        thread.join(WAIT_S)
        assert [type(error) for error in ended] == [errors.ClientClosed]


def test_close_while_no_broker_is_there() -> None:
    with ScriptedBroker() as broker:
        client = connect(broker)
    thread = threading.Timer(0.1, client.close)
    thread.start()
    with pytest.raises(errors.ClientClosed):
        client.infer({})
    thread.join()


def test_close_ends_a_pause_too() -> None:
    with ScriptedBroker(silence) as broker:
        client = connect(broker)

        def end_both() -> None:
            broker.close()
            client.close()

        with on_alarm(end_both, broker), pytest.raises(errors.ClientClosed):
            client.infer({})


@pytest.mark.parametrize("call", ["infer", "ping", "reset", "get_server_metadata", "status"])
def test_any_other_call_in_a_signal_handler_says_why_it_cannot(call: str) -> None:
    with ScriptedBroker(silence) as broker, connect(broker) as client:
        raised: list[errors.PolicyError] = []

        def handler() -> None:
            try:
                getattr(client, call)(*([{}] if call == "infer" else []))
            except errors.PolicyError as error:
                raised.append(error)
            client.close()

        with on_alarm(handler, broker), pytest.raises(errors.ClientClosed):
            client.infer({})
        assert [type(error) for error in raised] == [errors.ClientBusy]
        assert "signal handler" in str(raised[0])


@pytest.mark.parametrize("end", ["term", "destroy"])
def test_a_robot_may_end_the_shared_context(end: str) -> None:
    """It waited for our sockets for ever, or made them raise what no robot expects."""
    with ScriptedBroker() as broker:
        own: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        shared, zmq.Context._instance = zmq.Context._instance, own
        try:
            with connect(broker) as client:
                getattr(zmq.Context.instance(), end)()
                assert client.infer({"tag": 1})["tag"] == 1
        finally:
            zmq.Context._instance = shared


def test_an_error_of_zeromq_itself_is_one_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*given: object) -> None:
        raise zmq.ZMQError(errno.EMFILE)

    with ScriptedBroker() as broker, connect(broker) as client:
        monkeypatch.setattr("client.connection.send", exhausted)
        with pytest.raises(errors.BrokerUnreachable, match="Too many open files"):
            client.infer({})
