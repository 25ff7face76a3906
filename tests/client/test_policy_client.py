"""What the client sends and what it makes of answers; `ScriptedBroker` is its peer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from client import ZmqPolicyClient, errors
from client.body import LARGE
from client.errors import BY_CODE
from client.wire import encode_header
from tests.client.scripted_broker import Request, ScriptedBroker, fails, says

WAIT_S = 60.0  # for what should take milliseconds; the machine may be busy


@pytest.fixture
def broker() -> Iterator[ScriptedBroker]:
    with ScriptedBroker() as broker:
        yield broker


@pytest.fixture
def client(broker: ScriptedBroker) -> Iterator[ZmqPolicyClient]:
    with connect(broker) as client:
        yield client


def connect(broker: ScriptedBroker, **options: Any) -> ZmqPolicyClient:
    return ZmqPolicyClient("127.0.0.1", broker.port, **{"timeout_s": WAIT_S, **options})


def test_an_answer(client: ZmqPolicyClient) -> None:
    result = client.infer({"tag": "mine"})
    assert result["actions"].shape == (5, 2)
    assert result["tag"] == "mine"


def test_times_add_up(broker: ScriptedBroker, client: ZmqPolicyClient) -> None:
    server = {"queue_ms": 0.25, "infer_ms": 0.5}
    broker.then(lambda request: [request.reply({"actions": np.zeros((1, 1))}, timing=server)])
    result = client.infer({})
    assert result["server_timing"] == server
    spent = result["client_timing"]
    assert set(spent) == {"encode_ms", "network_ms", "decode_ms", "total_ms"}
    stages = spent["encode_ms"] + spent["network_ms"] + spent["decode_ms"] + 0.75
    assert stages == pytest.approx(spent["total_ms"])
    assert [key for key, value in result.items() if isinstance(value, np.ndarray)] == ["actions"]


def test_arrays_in_results_are_writable(broker: ScriptedBroker, client: ZmqPolicyClient) -> None:
    big = np.zeros((LARGE, 2))
    broker.then(lambda request: [request.reply({"actions": big, "small": np.zeros(2)})])
    result = client.infer({})
    result["actions"][3, 1] = result["small"][0] = 1.0
    assert result["actions"].sum() == 1.0


def test_what_is_sent(broker: ScriptedBroker) -> None:
    image = np.arange(2 * LARGE, dtype=np.uint8)
    with connect(broker, policy="p", robot="r", session="s", priority=0) as client:
        client.infer({"image": image}, noise=np.ones((2, 3), np.float32), seed=7, deadline_s=WAIT_S)
    (request,) = broker.requests
    header = request.header
    named = {key: header[key] for key in ("kind", "policy", "robot", "session", "priority")}
    assert named == {"kind": "infer", "policy": "p", "robot": "r", "session": "s", "priority": 0}
    assert header["buffers"] is True
    assert len(header["id"].client) == 16
    assert 0 < header["deadline_ms"] <= WAIT_S * 1e3 - 100.0  # the broker gives up a bit before us
    np.testing.assert_array_equal(request.body["image"], image)
    assert request.body["noise"].dtype == np.float32
    assert request.body["seed"] == 7


def test_an_observation_is_not_changed(client: ZmqPolicyClient) -> None:
    observation = {"tag": 1}
    client.infer(observation, seed=7)
    assert observation == {"tag": 1}


def test_every_request_has_its_own_id(broker: ScriptedBroker, client: ZmqPolicyClient) -> None:
    for _ in range(3):
        client.infer({})
    ids = [request.header["id"] for request in broker.requests]
    assert len({id.client for id in ids}) == 1
    assert sorted(set(ids)) == ids


def test_reset_begins_another_session(broker: ScriptedBroker, client: ZmqPolicyClient) -> None:
    client.infer({})
    broker.then(lambda request: [request.reply({}, "pong")])
    client.reset()
    client.infer({})
    first, reset, second = (request.header for request in broker.requests)
    assert reset["kind"] == "reset"
    assert first["session"] == reset["session"] != second["session"]


def test_metadata(broker: ScriptedBroker, client: ZmqPolicyClient) -> None:
    broker.then(lambda request: [request.reply({"robot": "aloha", "reset_pose": [0.0]})])
    assert client.get_server_metadata() == {"robot": "aloha", "reset_pose": [0.0]}
    assert broker.requests[0].header["kind"] == "metadata"


@pytest.mark.parametrize("cls", sorted(set(BY_CODE.values()) - {errors.Draining}, key=str))
def test_every_error_is_raised_as_its_class(cls: type[errors.PolicyError]) -> None:
    with (
        ScriptedBroker(fails(cls.code(), retry_after_ms=250.0)) as broker,
        connect(broker) as client,
    ):
        with pytest.raises(cls, match="told so") as caught:
            client.infer({})
        assert caught.value.retry_after_s == 0.25
        assert client.infer({"tag": 2})["tag"] == 2


def test_an_error_about_an_unreadable_header(
    broker: ScriptedBroker, client: ZmqPolicyClient
) -> None:
    """Whoever could not read the header could not know its id."""
    broker.then(says(encode_header({"v": 1, "kind": "error", "code": "version_mismatch"})))
    with pytest.raises(errors.VersionMismatch):
        client.infer({})


def right_id(request: Request, *frames: bytes) -> list[bytes]:
    return [encode_header({"v": 1, "kind": "result", "id": request.header["id"]}), *frames]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda request: [b"garbage"], errors.ProtocolError),
        (lambda request: [b"HTTP/1.1 400 Bad Request\r\n\r\n"], errors.ProtocolError),
        (lambda request: [b""], errors.ProtocolError),
        (lambda request: [bytes(5000)], errors.ProtocolError),
        (lambda request: [encode_header({"v": 2, "kind": "result"})], errors.VersionMismatch),
        (lambda request: [encode_header({"v": 1, "kind": "infer"})], errors.ProtocolError),
        (lambda request: [encode_header({"v": 1, "kind": "error", "id": 1})], errors.ProtocolError),
        (lambda request: right_id(request), errors.ProtocolError),
        (lambda request: right_id(request, b"\xc1"), errors.ProtocolError),
        (lambda request: right_id(request, b"\x81"), errors.ProtocolError),
        (lambda request: right_id(request, b"\x90"), errors.ProtocolError),
        (lambda request: right_id(request, b"\x80", b"nobody's buffer"), errors.ProtocolError),
    ],
)
def test_a_garbled_answer(answer: Any, error: type[errors.PolicyError]) -> None:
    script = lambda request: [answer(request)]  # noqa: E731
    with ScriptedBroker(script) as broker, connect(broker) as client:
        with pytest.raises(error):
            client.infer({})
        assert client.infer({"tag": "next"})["tag"] == "next"


def test_what_cannot_be_sent_is_not_sent(broker: ScriptedBroker, client: ZmqPolicyClient) -> None:
    for observation in ({"camera": object()}, None, [1]):
        with pytest.raises(errors.BadObservation):
            client.infer(observation)  # type: ignore[arg-type]
    assert broker.requests == []


def test_what_is_too_large_is_not_sent() -> None:
    with ScriptedBroker(max_bytes=1000) as broker, connect(broker) as client:
        with pytest.raises(errors.MessageTooLarge, match="the broker takes 1000: send uint8"):
            client.infer({"image": np.zeros(LARGE, np.uint8)})
        with pytest.raises(errors.MessageTooLarge):
            client.infer({"text": "x" * 1000})
        assert client.infer({"tag": 1})["tag"] == 1
        assert len(broker.requests) == 1


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("timeout_s", value) for value in (0, -1, math.nan, math.inf, 1e9)),
        *(("connect_timeout_s", value) for value in (0, -1, math.nan, math.inf)),
        *(("priority", value) for value in (-1, 10)),
        *(("port", value) for value in (0, -1, 65536)),
    ],
)
def test_arguments_out_of_range(option: str, value: float) -> None:
    options: dict[str, Any] = {option: value}
    with pytest.raises(ValueError, match=f"{option} is"):
        ZmqPolicyClient(**options)


@pytest.mark.parametrize("host", ["nonsense://x", "tcp://", "tcp://localhost", "tcp://:8000:x"])
def test_what_is_no_address_is_told_at_once(host: str) -> None:
    with pytest.raises(errors.BrokerUnreachable, match="is no address"):
        ZmqPolicyClient(host, connect_timeout_s=WAIT_S * 10)


@pytest.mark.parametrize("host", ["gpu-server:8000", "10.0.0.5:8000", ":8000", "[::1]:8000"])
def test_a_port_within_the_host_is_told_at_once(host: str) -> None:
    with pytest.raises(ValueError, match=f"host is '{re.escape(host)}': .* port="):
        ZmqPolicyClient(host, connect_timeout_s=WAIT_S * 10)


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_an_ipv6_address_may_have_brackets(host: str) -> None:
    with pytest.raises(errors.BrokerUnreachable, match=r"at tcp://\[::1\]:1:"):
        ZmqPolicyClient(host, 1, connect_timeout_s=0.1)


def test_a_deadline_that_is_no_number(client: ZmqPolicyClient) -> None:
    with pytest.raises(ValueError, match="deadline_s is nan"):
        client.infer({}, deadline_s=math.nan)


def test_a_seed_that_is_too_large_is_told_the_range(client: ZmqPolicyClient) -> None:
    with pytest.raises(errors.BadObservation, match=r"seed: .*to 2\^64 - 1"):
        client.infer({}, seed=2**70)


def test_a_whole_endpoint_and_an_endless_deadline(broker: ScriptedBroker) -> None:
    with ZmqPolicyClient(f"tcp://127.0.0.1:{broker.port}", 1) as client:
        assert client.infer({"tag": 3}, deadline_s=math.inf)["tag"] == 3


def test_an_address_with_colons() -> None:
    with pytest.raises(errors.BrokerUnreachable, match=r"tcp://\[::1\]:1"):
        ZmqPolicyClient("::1", 1, connect_timeout_s=0.1)


def test_a_closed_client(broker: ScriptedBroker) -> None:
    client = connect(broker)
    client.close()
    client.close()
    for call in (lambda: client.infer({}), client.reset, client.get_server_metadata):
        with pytest.raises(errors.ClientClosed):
            call()


def test_held_steps_go_with_every_request_once_they_are_told(
    broker: ScriptedBroker, client: ZmqPolicyClient
) -> None:
    told: list[Any] = []

    def answer(request: Request) -> list[Any]:
        told.append(request.header.get("held"))
        return [request.reply({"actions": np.zeros((1, 1))})]

    for steps in (None, 0, 7):
        if steps is not None:
            client.tell_held(steps)
        broker.then(answer)
        client.infer({})
    assert told == [None, 0, 7]
