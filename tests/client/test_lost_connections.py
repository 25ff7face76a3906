"""The lazy pirate: silence, death, return, and peers that are no brokers."""

from __future__ import annotations

import functools
import http.server
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
import zmq

from client import ZmqPolicyClient, connection, errors, wire
from client.body import LARGE
from client.connection import Connection
from client.wire import Header, RequestId, encode_header
from tests.client.scripted_broker import Request, ScriptedBroker, broken, silence

WAIT_S = 60.0  # for what should take milliseconds; the machine may be busy


def connect(port: int, **options: Any) -> ZmqPolicyClient:
    return ZmqPolicyClient("127.0.0.1", port, **{"timeout_s": WAIT_S, **options})


class Call(threading.Thread):
    """One `infer` in another thread."""

    def __init__(
        self, client: ZmqPolicyClient, observation: dict[str, Any], **options: Any
    ) -> None:
        super().__init__()
        self._ask = functools.partial(client.infer, observation, **options)
        self.result: dict[str, Any] = {}
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._ask()
        except errors.PolicyError as error:
            self.error = error


def wait_for_requests(broker: ScriptedBroker, count: int) -> list[Header]:
    """The headers of the first `count` requests, once they are there."""
    give_up = time.monotonic() + WAIT_S
    while len(broker.requests) < count:
        assert time.monotonic() < give_up, f"{len(broker.requests)} requests came"
        time.sleep(0.005)
    return [request.header for request in broker.requests]


def test_a_silent_broker_ends_at_the_deadline() -> None:
    with ScriptedBroker(silence, silence) as broker, connect(broker.port, timeout_s=0.3) as client:
        for deadline_s, least in ((None, 0.3), (0.2, 0.2)):
            started = time.monotonic()
            with pytest.raises(errors.DeadlineExceeded, match="no answer"):
                client.infer({}, deadline_s=deadline_s)
            assert least <= time.monotonic() - started < WAIT_S
        assert len(broker.requests) == 2  # silence is no reason to send again
        assert client.infer({"tag": 3}, deadline_s=WAIT_S)["tag"] == 3


@pytest.mark.parametrize("deadline_s", [0.0, -1.0])
def test_a_deadline_that_has_passed(deadline_s: float) -> None:
    with ScriptedBroker() as broker, connect(broker.port) as client:
        with pytest.raises(errors.DeadlineExceeded):
            client.infer({}, deadline_s=deadline_s)
        assert broker.requests == []


def test_an_answer_that_comes_too_late_is_never_taken_for_another() -> None:
    held: list[Request] = []

    def hold(request: Request) -> list[list[bytes]]:
        held.append(request)
        return []

    def both(request: Request) -> list[list[bytes]]:
        return [held[0].reply({"tag": "old"}), request.reply({"tag": "new"})]

    with ScriptedBroker(hold, both) as broker, connect(broker.port) as client:
        with pytest.raises(errors.DeadlineExceeded):
            client.infer({"tag": "old"}, deadline_s=0.2)
        assert client.infer({"tag": "new"})["tag"] == "new"


def test_an_answer_to_somebody_else_is_dropped() -> None:
    def foreign(request: Request) -> list[list[bytes]]:
        header = {"v": 1, "kind": "result", "id": RequestId(bytes(16), 0)}
        return [[encode_header(header), b"\x81\xa3tag\xa7foreign"]]

    def nameless(request: Request) -> list[list[bytes]]:
        return [[encode_header({"v": 1, "kind": "result"}), b"\x81\xa3tag\xa8nameless"]]

    with ScriptedBroker(foreign, nameless) as broker, connect(broker.port) as client:
        assert client.infer({"tag": "mine"})["tag"] == "mine"
        assert len({header["id"] for header in wait_for_requests(broker, 3)}) == 1


def test_a_broker_that_dies_and_comes_back_is_asked_again_with_the_same_id() -> None:
    first = ScriptedBroker(silence)
    with connect(first.port) as client:
        call = Call(client, {"tag": "same"})
        (asked,) = wait_for_requests(first, 1)
        first.close()
        time.sleep(0.3)
        assert call.is_alive()
        with ScriptedBroker(port=first.port) as second:
            call.join(WAIT_S)
            assert call.result["tag"] == "same"
            (again,) = wait_for_requests(second, 1)
    assert again["id"] == asked["id"]
    assert again["deadline_ms"] < asked["deadline_ms"]


@pytest.mark.parametrize("busy", [True, False], ids=["mid-request", "idle"])
def test_a_broker_that_dies_for_good(busy: bool) -> None:
    broker = ScriptedBroker(silence)
    with connect(broker.port) as client:
        if busy:
            call = Call(client, {}, deadline_s=1.0)
            wait_for_requests(broker, 1)
            broker.close()
        else:
            with pytest.raises(errors.DeadlineExceeded):  # the socket has been used
                client.infer({}, deadline_s=0.1)
            client.ping()
            broker.close()
            call = Call(client, {}, deadline_s=0.3)
        call.join(WAIT_S)
        assert isinstance(call.error, errors.BrokerUnreachable)
        assert "python -m broker" in str(call.error)


def test_a_broker_that_restarts_between_requests() -> None:
    broker = ScriptedBroker()
    with connect(broker.port) as client:
        for tag in range(3):
            assert client.infer({"tag": tag})["tag"] == tag
            broker.close()
            broker = ScriptedBroker(port=broker.port)
        assert client.infer({"tag": 9})["tag"] == 9
    broker.close()


def test_a_broker_that_comes_back_with_smaller_limits_is_not_sent_what_it_cannot_take() -> None:
    first = ScriptedBroker(silence)
    with connect(first.port) as client:
        call = Call(client, {"image": np.zeros(5000, np.uint8)})
        wait_for_requests(first, 1)
        first.close()
        with ScriptedBroker(port=first.port, max_bytes=1000) as second:
            call.join(WAIT_S)
            assert isinstance(call.error, errors.MessageTooLarge)
            assert "the broker takes 1000" in str(call.error)
            assert second.requests == []
            assert client.infer({"tag": "small"})["tag"] == "small"
        with ScriptedBroker(port=first.port, max_bytes=10_000):
            large = {"tag": "large", "image": np.zeros(5000, np.uint8)}
            assert client.infer(large)["tag"] == "large"


def test_too_large_for_a_broker_that_is_gone_is_told_at_once() -> None:
    with ScriptedBroker(max_bytes=1000) as broker:
        client = connect(broker.port)
    with client, pytest.raises(errors.MessageTooLarge):
        client.infer({"image": np.zeros(5000, np.uint8)})


def test_a_connection_lost_in_the_middle_of_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """A REQ socket would go on with the second half, and wait for ever for an answer to it."""
    first = ScriptedBroker()
    later: list[ScriptedBroker] = []

    def half(socket: zmq.Socket[bytes], frames: Sequence[Any]) -> None:
        monkeypatch.setattr(connection, "send", wire.send)
        socket.send(frames[0], zmq.SNDMORE)
        first.close()
        later.append(ScriptedBroker(port=first.port))
        raise zmq.Again

    with connect(first.port) as client:
        monkeypatch.setattr(connection, "send", half)
        assert client.infer({"tag": "mine"}, deadline_s=10.0)["tag"] == "mine"
    later[0].close()


def test_the_constructor_waits_for_a_late_broker() -> None:
    with ScriptedBroker() as broker:
        port = broker.port
    late = threading.Timer(0.4, lambda: brokers.append(ScriptedBroker(port=port)))
    brokers: list[ScriptedBroker] = []
    late.start()
    with connect(port, connect_timeout_s=WAIT_S) as client:
        assert client.infer({"tag": 1})["tag"] == 1
    brokers[0].close()


def test_nobody_there() -> None:
    with ScriptedBroker() as broker:
        port = broker.port
    started = time.monotonic()
    with pytest.raises(errors.BrokerUnreachable, match=f"127.0.0.1:{port}: check host and port"):
        connect(port, connect_timeout_s=0.3)
    assert 0.3 <= time.monotonic() - started < WAIT_S


@contextmanager
def silent_server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def web_server() -> Iterator[int]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Keep it to itself."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("server", [silent_server, web_server])
def test_a_port_of_another_service(server: Any) -> None:
    with server() as port, pytest.raises(errors.ConnectionRefusedByPeer, match="another service's"):
        connect(port, connect_timeout_s=1.0)


def test_silence_may_be_a_broker_that_hangs() -> None:
    with silent_server() as port, pytest.raises(errors.ConnectionRefusedByPeer, match="hangs"):
        connect(port, connect_timeout_s=1.0)


def test_a_peer_that_breaks_the_connection_each_time_is_not_flooded() -> None:
    """Libzmq hangs up on an answer without a delimiter; the client asks again, ever more slowly."""
    with ScriptedBroker(*[broken] * 1000) as broker, connect(broker.port) as client:
        with pytest.raises(errors.DeadlineExceeded):
            client.infer({}, deadline_s=1.0)
        assert 2 <= len(broker.requests) <= 14
        broker.forget_script()
        assert client.infer({"tag": 1})["tag"] == 1


def test_a_peer_that_hangs_up_at_once_is_not_flooded() -> None:
    calls = 0
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        client = threading.Thread(target=suffer, args=(server.getsockname()[1],))
        client.start()
        while client.is_alive():
            with suppress(TimeoutError):
                server.accept()[0].close()
                calls += 1
        client.join()
    assert 2 <= calls <= 100  # libzmq waits RECONNECT_MS between them; we add none


def suffer(port: int) -> None:
    """Try for half a second to reach what is no broker."""
    with pytest.raises(errors.ConnectionRefusedByPeer):
        connect(port, connect_timeout_s=0.5)


def test_threads_take_turns() -> None:
    with ScriptedBroker() as broker, connect(broker.port) as client:
        calls = [Call(client, {"tag": tag}) for tag in range(20)]
        for tag, call in enumerate(calls):
            call.join(WAIT_S)
            assert call.result["tag"] == tag


def test_another_threads_call_may_take_all_the_time() -> None:
    with ScriptedBroker(silence) as broker, connect(broker.port) as client:
        slow = Call(client, {}, deadline_s=1.0)
        wait_for_requests(broker, 1)
        with pytest.raises(errors.DeadlineExceeded, match="another thread"):
            client.infer({}, deadline_s=0.1)
        slow.join(WAIT_S)
        assert isinstance(slow.error, errors.DeadlineExceeded)


def test_ctrl_c_in_the_middle_leaves_a_usable_client() -> None:
    def interrupt(request: Request) -> list[list[bytes]]:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return []

    with ScriptedBroker(interrupt) as broker, connect(broker.port) as client:
        with pytest.raises(KeyboardInterrupt):
            client.infer({})
        assert client.infer({"tag": "after"})["tag"] == "after"


@pytest.mark.parametrize("copy", [True, False])
def test_only_a_copy_may_be_written_over_while_infer_waits(
    copy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = threading.Event()
    send = Connection.send

    def announce(self: Connection, *given: Any) -> bool:
        encoded.set()
        return send(self, *given)

    broker = ScriptedBroker()
    with connect(broker.port, copy=copy) as client:
        broker.close()
        monkeypatch.setattr(Connection, "send", announce)
        image = np.zeros(4 * LARGE, np.uint8)
        call = Call(client, {"image": image})
        assert encoded.wait(WAIT_S)
        image[:] = 1  # the camera's next picture, while there is no broker to send this one to
        with ScriptedBroker(port=broker.port) as broker:
            call.join(WAIT_S)
            assert call.error is None
            assert broker.requests[0].body["image"].any() != copy


FORKED = """
import os, sys
from client import ZmqPolicyClient, errors
client = ZmqPolicyClient("127.0.0.1", int(sys.argv[1]))
child = os.fork()
if child == 0:
    try:
        client.infer({})
    except errors.ClientClosed as error:
        client.close()
        os._exit(17 if "another process" in str(error) else 1)
    os._exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
assert client.infer({"tag": "parent"})["tag"] == "parent"
"""
FORKED_IN_CALL = """
import os, signal, sys
from client import ZmqPolicyClient
client = ZmqPolicyClient("127.0.0.1", int(sys.argv[1]))
client._conversation._lock.acquire()  # as another thread's `infer` has it
child = os.fork()
if child == 0:
    signal.alarm(5)
    client.close()
    os._exit(17)
client._conversation._lock.release()
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 17
"""
UNCLOSED = """
import sys
from client import ZmqPolicyClient
ZmqPolicyClient("127.0.0.1", int(sys.argv[1])).infer({})
"""


@pytest.mark.parametrize(
    "script", [FORKED, FORKED_IN_CALL, UNCLOSED], ids=["fork", "in a call", "never closed"]
)
def test_a_program_of_its_own(script: str) -> None:
    with ScriptedBroker() as broker:
        command = [sys.executable, "-c", script, str(broker.port)]
        done = subprocess.run(command, timeout=WAIT_S, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
