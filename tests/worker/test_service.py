"""What a worker says to a broker and makes of its answers; the broker here is a scripted ROUTER."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import zmq

from client.body import decode_body, encode_body
from client.errors import BadObservation
from client.wire import FROM_WORKER, Header, RequestId, decode_header, encode_header
from worker.errors import DeviceLost
from worker.events import BROKEN, REFUSED, STOPPED
from worker.service import GLANCE_S, Service

WAIT_S = 60.0
EPOCH = 11


class Policy:
    """Answers `tag`; when it is told to wait, only after `go`."""

    digest = "d"
    metadata = {"robot": "any", "action_horizon": 5}  # noqa: RUF012 - read only

    def __init__(self) -> None:
        self.go = threading.Event()
        self.loaded = threading.Event()
        self.loaded.set()

    def load(self) -> None:
        assert self.loaded.wait(WAIT_S)

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        if "wait" in observation:
            assert self.go.wait(WAIT_S)
        return {"actions": np.zeros((5, 2)), "tag": observation.get("tag")}


class Broker:
    """The broker's side of one worker's conversation, spoken by the test."""

    def __init__(self) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1e3))
        self._socket.bind("tcp://127.0.0.1:*")
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.worker = b""
        self.body: dict[str, Any] = {}

    def hears(self, kind: str, **expected: Any) -> Header:
        """The next message of this kind with these fields; others are passed over."""
        while True:
            self.worker, frame, *body = self._socket.recv_multipart()
            header = decode_header(frame, FROM_WORKER)
            if header["kind"] == kind and expected.items() <= header.items():
                self.body = decode_body(body) if body else {}
                return header

    def says(self, kind: str, *body: bytes, **fields: Any) -> None:
        """Tell the worker something."""
        header = {"v": 1, "kind": kind, "epoch": EPOCH, **fields}
        self._socket.send_multipart([self.worker, encode_header(header), *body])

    def gives(self, sequence: int, observation: dict[str, Any], **fields: Any) -> RequestId:
        """Give it a request."""
        id = RequestId(b"c" * 16, sequence)
        frames = map(bytes, encode_body(observation))
        self.says("infer", *frames, **{"id": id, "attempt": 1, "deadline_ms": 60_000.0, **fields})
        return id

    def welcomes(self) -> None:
        """Let it in, and wait until it is ready."""
        self.hears("hello")
        self.says("welcome", heartbeat_ms=20)
        self.hears("ready")

    def close(self) -> None:
        """Go away."""
        self._socket.close()


class Running(threading.Thread):
    """A service in a thread of its own."""

    def __init__(self, policy: Any, endpoint: str) -> None:
        super().__init__()
        self.service = Service(policy, name="served", brokers=[endpoint], slots=2)
        self.code: int | None = None
        self.start()

    def run(self) -> None:
        self.code = self.service.run()

    def ends(self) -> int | None:
        """Its exit code, once it has ended."""
        self.join(WAIT_S)
        return self.code


@pytest.fixture
def broker() -> Iterator[Broker]:
    broker = Broker()
    yield broker
    broker.close()


@pytest.fixture
def policy() -> Policy:
    return Policy()


@pytest.fixture
def worker(broker: Broker, policy: Policy) -> Iterator[Running]:
    running = Running(policy, broker.endpoint)
    yield running
    policy.loaded.set()
    policy.go.set()
    running.service.stop()
    running.service.stop()
    assert running.ends() is not None


def test_hello_says_all_that_the_broker_needs(broker: Broker, worker: Running) -> None:
    header = broker.hears("hello")
    said = {key: header[key] for key in ("policy", "digest", "horizon", "slots")}
    assert said == {"policy": "served", "digest": "d", "horizon": 5, "slots": 2}
    assert len(header["incarnation"]) == 16
    assert broker.body == Policy.metadata


def test_it_says_hello_before_it_is_loaded_and_ready_after(broker: Broker, policy: Policy) -> None:
    policy.loaded.clear()
    running = Running(policy, broker.endpoint)
    assert broker.hears("hello")["state"] == "warming"
    broker.says("welcome", heartbeat_ms=20)
    assert broker.hears("heartbeat")["state"] == "warming"
    policy.loaded.set()
    assert "inference_ms" not in broker.hears("ready", epoch=EPOCH)  # it did not measure
    running.service.stop()
    assert running.ends() == STOPPED


def test_requests_are_answered_with_their_id_and_attempt(broker: Broker, worker: Running) -> None:
    broker.welcomes()
    id = broker.gives(1, {"tag": "mine"}, attempt=2)
    assert broker.hears("result")["attempt"] == 2
    assert broker.body["tag"] == "mine"
    broker.gives(2, {"tag": "next"})
    assert broker.hears("result")["id"] == RequestId(id.client, 2)


def test_heartbeats_go_on_during_an_inference_and_say_what_is_in_hand(
    broker: Broker, worker: Running, policy: Policy
) -> None:
    broker.welcomes()
    first, second = (broker.gives(sequence, {"wait": 1}) for sequence in (1, 2))
    broker.says("heartbeat", n=41)
    assert broker.hears("heartbeat", n=41)["ids"] == [(first, 1), (second, 1)]
    policy.go.set()
    broker.hears("result", id=second)
    broker.says("heartbeat", n=42)
    assert broker.hears("heartbeat", n=42)["ids"] == []


def test_an_inference_that_takes_long_for_once_silences_nothing(
    broker: Broker, worker: Running, policy: Policy
) -> None:
    broker.welcomes()
    for sequence in range(1, 40):  # after these, the next is expected to be short
        broker.gives(sequence, {"tag": sequence})
        broker.hears("result")
    id = broker.gives(40, {"tag": 40, "wait": True})
    for n in range(100, 103):
        broker.says("heartbeat", n=n)
        assert broker.hears("heartbeat", n=n)["ids"] == [(id, 1)]
    next_id = broker.gives(41, {"tag": 41})
    while len(broker.hears("heartbeat")["ids"]) < 2:
        pass
    policy.go.set()
    assert [broker.hears("result")["id"] for _ in range(2)] == [id, next_id]


def test_it_can_be_stopped_whatever_it_is_doing(broker: Broker, policy: Policy) -> None:
    for sequence in (1, 2):
        running = Running(policy, broker.endpoint)
        broker.welcomes()
        if sequence == 2:
            broker.gives(sequence, {"wait": True})
            broker.hears("heartbeat", ids=[(RequestId(b"c" * 16, sequence), 1)])
            running.service.stop()
            broker.hears("heartbeat", state="draining")
        running.service.stop()
        running.service.stop()
        assert running.ends() == STOPPED
        assert running.service.is_idle is (sequence == 1)
    policy.go.set()


def test_the_sockets_are_closed_when_no_thread_uses_them_any_more(
    broker: Broker, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Running(policy, broker.endpoint)
    broker.welcomes()
    conversations = running.service._conversations
    really, order = conversations.close, []

    def serve(*_: object) -> bool:
        conversations.exit_code = STOPPED
        time.sleep(3 * GLANCE_S)  # the main thread looks meanwhile
        order.append("served")
        return True

    def close() -> None:
        order.append("closed")
        really()

    monkeypatch.setattr(conversations, "close", close)
    monkeypatch.setattr(conversations, "serve", serve)
    assert running.ends() == STOPPED
    assert order == ["served", "closed"]


@pytest.mark.parametrize("method", ["serve", "take"])
def test_a_bug_of_ours_on_either_thread_ends_it(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    service = Service(Policy(), name="served", brokers=[broker.endpoint], slots=2)

    def fail(*_: object) -> None:
        raise KeyError("planted")

    monkeypatch.setattr(service._conversations, method, fail)
    with pytest.raises(KeyError, match="planted"):
        service.run()


def test_what_cannot_be_read_fails_that_request_only(broker: Broker, worker: Running) -> None:
    broker.welcomes()
    for body in ([b"\xc1"], [b"\x90"], [b"\x80", b"nobody's"], []):
        broker.says("infer", *body, id=RequestId(b"c", 1), attempt=1, deadline_ms=1e3)
        assert broker.hears("failure")["code"] == "protocol_error"
    broker.gives(2, {"tag": 1})
    broker.hears("result")


def test_garbage_from_the_broker_is_survived(broker: Broker, worker: Running) -> None:
    broker.welcomes()
    for frame in (b"", b"garbage", encode_header({"v": 2, "kind": "infer"}), b"\x91" * 2000):
        broker._socket.send_multipart([broker.worker, frame])
    broker.gives(1, {"tag": 1})
    broker.hears("result")


def test_a_message_without_its_fields_ends_nothing(broker: Broker, worker: Running) -> None:
    broker.welcomes()
    for kind in ("infer", "welcome", "heartbeat", "who", "nonsense"):
        broker._socket.send_multipart([broker.worker, encode_header({"v": 1, "kind": kind})])
    broker.gives(1, {"tag": 1})
    broker.hears("result")


def test_an_answer_above_the_brokers_limit_fails_its_request_only(
    broker: Broker, worker: Running
) -> None:
    broker.hears("hello")
    broker.says("welcome", heartbeat_ms=20, max_bytes=2_000)
    broker.hears("ready")
    broker.gives(1, {"tag": "x" * 3_000})
    failure = broker.hears("failure")
    assert failure["code"] == "policy_failed"
    assert "limits.max_bytes" in failure["message"]
    broker.gives(2, {"tag": "x"})
    assert broker.hears("result")["id"].sequence == 2


def test_metadata_that_cannot_be_sent_once_they_are_known(broker: Broker) -> None:
    class Late(Policy):
        digest = None  # type: ignore[assignment]

        def load(self) -> None:
            assert connected.wait(WAIT_S)
            self.metadata = {"action_horizon": "many"}

    connected = threading.Event()
    running = Running(Late(), broker.endpoint)
    broker.hears("hello")
    connected.set()
    assert broker.hears("goodbye")["message"] == "WorkerError"
    assert running.ends() == BROKEN


def test_who_is_answered_by_hello(broker: Broker, worker: Running) -> None:
    broker.welcomes()
    incarnation = broker.hears("heartbeat") and worker.service._conversations._incarnation
    broker.says("who")
    assert broker.hears("hello")["incarnation"] == incarnation


def test_an_answer_to_a_broker_of_another_life_is_not_sent(
    broker: Broker, worker: Running, policy: Policy
) -> None:
    broker.welcomes()
    broker.gives(1, {"wait": 1})
    broker.says("heartbeat", n=1)
    broker.hears("heartbeat", n=1)
    broker.says("welcome", heartbeat_ms=20, epoch=EPOCH + 1)
    broker.hears("ready", epoch=EPOCH + 1)
    assert broker.hears("heartbeat", epoch=EPOCH + 1)["ids"] == []
    policy.go.set()
    broker.gives(2, {}, epoch=EPOCH + 1)
    assert broker.hears("result")["id"].sequence == 2


def test_an_attempt_that_comes_twice_is_answered_twice(
    broker: Broker, worker: Running, policy: Policy
) -> None:
    broker.welcomes()
    for _ in range(2):
        broker.gives(1, {"wait": 1})
    policy.go.set()
    for _ in range(2):
        broker.hears("result", attempt=1)
    broker.gives(2, {})
    broker.hears("result")


def test_a_refusal_ends_it(broker: Broker, worker: Running) -> None:
    broker.hears("hello")
    broker.says("error", code="worker_refused", message="use name=...")
    assert worker.ends() == REFUSED


def test_an_unreadable_hello_ends_it(broker: Broker, worker: Running) -> None:
    broker.hears("hello")
    broker.says("error", code="protocol_error", message="header field 'policy' ...")
    assert worker.ends() == REFUSED


def test_one_message_that_the_broker_could_not_read_does_not(
    broker: Broker, worker: Running
) -> None:
    broker.welcomes()
    broker.says("error", code="protocol_error", message="the first frame is not a header")
    broker.gives(1, {"tag": 1})
    broker.hears("result")


def test_it_says_goodbye_when_it_is_stopped(broker: Broker, worker: Running) -> None:
    broker.welcomes()
    worker.service.stop()
    broker.hears("goodbye")
    assert worker.ends() == STOPPED


def test_it_finishes_what_it_has_before_it_goes(
    broker: Broker, worker: Running, policy: Policy
) -> None:
    broker.welcomes()
    broker.gives(1, {"wait": 1})
    broker.says("heartbeat", n=1)
    broker.hears("heartbeat", n=1)
    worker.service.stop()
    broker.hears("heartbeat", state="draining")
    policy.go.set()
    broker.hears("result")
    broker.hears("goodbye")
    assert worker.ends() == STOPPED


def test_what_was_on_its_way_when_it_was_stopped_is_finished_too(
    broker: Broker, worker: Running
) -> None:
    broker.welcomes()
    broker.says("heartbeat", n=7)
    broker.hears("heartbeat", n=7)
    worker.service.stop()
    broker.hears("heartbeat", state="draining")
    broker.gives(1, {"tag": 1})  # sent before that was heard
    broker.hears("result")
    broker.says("heartbeat", n=9)
    broker.hears("goodbye")
    assert worker.ends() == STOPPED


def test_a_policy_that_cannot_be_loaded(broker: Broker) -> None:
    class Hopeless(Policy):
        def load(self) -> None:
            raise RuntimeError("no such weights")

    running = Running(Hopeless(), broker.endpoint)
    assert running.ends() == BROKEN
    assert running.service.is_idle


def test_a_lost_device_ends_it_with_a_goodbye(broker: Broker) -> None:
    class Lost(Policy):
        def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
            raise DeviceLost("cuda failed in the middle of service")

    running = Running(Lost(), broker.endpoint)
    broker.welcomes()
    broker.gives(1, {})
    assert broker.hears("goodbye")["message"] == "DeviceLost"
    assert running.ends() == BROKEN


def test_metadata_that_cannot_be_sent() -> None:
    class Mute(Policy):
        metadata = {"robot": object()}  # noqa: RUF012 - read only

    with pytest.raises(BadObservation, match="robot: object cannot be sent"):
        Service(Mute(), name="served", brokers=["tcp://127.0.0.1:1"], slots=1)


def test_no_address() -> None:
    with pytest.raises(zmq.ZMQError):
        Service(Policy(), name="served", brokers=["nowhere"], slots=1)
