"""The whole way through three processes, and what one robot's mistakes do to the others."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from client import ZmqPolicyClient, errors
from client.wire import MAX_FRAMES
from tests.client.trees import assert_same
from tests.e2e.stack import WAIT_S, Stack

RNG = np.random.default_rng(0)
OBSERVATION = {
    "state": RNG.standard_normal(14),
    "images": {
        "cam_high": RNG.integers(0, 256, (3, 224, 224), dtype=np.uint8),
        "cam_low": RNG.integers(0, 256, (224, 224, 3), dtype=np.uint8).transpose(2, 0, 1),
    },
    "prompt": "Über den Würfel 🤖",
    "more": {"none": None, "flag": True, "raw": b"\0\xff", "list": [1, [2.5]], "empty": {}},
    "scalar": np.float32(0.25),
    "nothing": np.zeros((0, 3), np.float16),
}


@pytest.mark.parametrize("copy", [True, False])
def test_a_nested_observation_there_and_back(shared: Stack, copy: bool) -> None:
    client = shared.client(policy="echo", copy=copy)
    result = client.infer(OBSERVATION)
    assert_same(result["observation"], OBSERVATION)
    assert result["actions"].shape == (50, 14)
    result["actions"][:] = 0.0  # and it is the robot's to change
    result["observation"]["images"]["cam_high"][:] = 0


def test_what_a_result_says_of_time(shared: Stack) -> None:
    result = shared.client(policy="zeros").infer(OBSERVATION)
    assert {"queue_ms", "worker_ms", "decode_ms", "infer_ms"} <= set(result["server_timing"])
    assert all(spent >= 0 for spent in result["server_timing"].values())
    assert [key for key, value in result.items() if isinstance(value, np.ndarray)] == ["actions"]
    spent = result["client_timing"]
    assert all(spent[stage] >= 0 for stage in ("encode_ms", "network_ms", "decode_ms"))
    assert result["server_timing"]["worker_ms"] <= spent["total_ms"]


def test_several_policies_at_once(shared: Stack) -> None:
    with pytest.raises(errors.AmbiguousPolicy, match="echo, faulty, zeros are served"):
        shared.client().infer({})
    assert "observation" in shared.client(policy="echo").infer({})
    assert "observation" not in shared.client(policy="zeros").infer({})


def test_an_unknown_policy(shared: Stack) -> None:
    with pytest.raises(errors.UnknownPolicy, match="did you mean 'echo'"):
        shared.client(policy="ecko", timeout_s=WAIT_S).infer({})


def test_metadata(shared: Stack) -> None:
    metadata = shared.client(policy="zeros").get_server_metadata()
    assert metadata["model"] == "noop"
    assert metadata["action_horizon"] == 50


def test_a_seed_is_always_there_and_tells_requests_apart(shared: Stack) -> None:
    client = shared.client(policy="faulty")
    seeds = [client.infer({})["seed"] for _ in range(2)]
    assert seeds[0] != seeds[1]
    assert client.infer({}, seed=7)["seed"] == 7


def test_many_robots(shared: Stack) -> None:
    answers = [shared.infer({"tag": tag}, policy="echo") for tag in range(24)]
    for tag, answer in enumerate(answers):
        assert answer.result(WAIT_S)["observation"] == {"tag": tag}


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        ("bad observation", errors.BadObservation, "state: 14 numbers are expected, 13 came"),
        ("long", errors.BadObservation, "ü"),
        ("boom", errors.PolicyFailed, "raised RuntimeError: no such joint"),
        ("nothing", errors.PolicyFailed, "`actions`"),
        ("list", errors.PolicyFailed, "`actions`"),
        ("no actions", errors.PolicyFailed, "`actions`"),
        ("object", errors.PolicyFailed, "actions: dtype object"),
    ],
)
def test_a_failure_is_its_own_requests_only(
    shared: Stack, fault: str, error: type[errors.PolicyError], words: str
) -> None:
    others = [shared.infer({"tag": tag}, policy="echo") for tag in range(4)]
    client = shared.client(policy="faulty")
    with pytest.raises(error, match=words) as caught:
        client.infer({"fault": fault})
    assert type(caught.value) is error
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert client.infer({})["actions"].shape == (5, 2)
    assert [other.result(WAIT_S)["observation"]["tag"] for other in others] == [0, 1, 2, 3]


DEEP = b"\x91" * 1015 + b"\xc0"  # deeper than Python's own `repr` can look


def infer(policy: str = "echo", **fields: Any) -> bytes:
    """A request's header."""
    packed: bytes = msgpack.packb({"v": 1, "kind": "infer", "policy": policy, **fields})
    return packed


def array(**changes: Any) -> bytes:
    """A body with one array that is not one."""
    form = {"nd": True, "type": "<f4", "shape": [1], "data": bytes(4), **changes}
    packed: bytes = msgpack.packb({"a": form})
    return packed.replace(msgpack.packb("DEEP"), DEEP)


EMPTY = b"\x80"


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"garbage"], "protocol_error"),
        ([b""], "protocol_error"),
        ([bytes(5000)], "protocol_error"),
        ([infer(v=2)], "version_mismatch"),
        ([infer(kind="hello"), EMPTY], "protocol_error"),
        ([infer(deadline_ms=-1), EMPTY], "protocol_error"),
        ([infer(v="DEEP").replace(msgpack.packb("DEEP"), DEEP), EMPTY], "version_mismatch"),
        ([infer()], "protocol_error"),
        ([infer(), EMPTY, *[b"buffer"] * MAX_FRAMES], "protocol_error"),
        ([infer(), b"\xc1"], "protocol_error"),
        ([infer(), msgpack.packb([1])], "protocol_error"),
        ([infer(), EMPTY, b"nobody's buffer"], "protocol_error"),
        ([infer(), array(type="|O")], "protocol_error"),
        ([infer(), array(type="DEEP")], "protocol_error"),
        ([infer(), array(shape="DEEP")], "protocol_error"),
        ([infer(), array(shape=[2**40], type="<U0", data=b"")], "protocol_error"),
    ],
)
def test_garbage_gets_one_clear_error_and_harms_nobody(
    shared: Stack, frames: list[bytes], code: str
) -> None:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
    socket.setsockopt(zmq.LINGER, 0)
    with socket:
        socket.connect(f"tcp://127.0.0.1:{shared.frontend}")
        for sent, expected in ((frames, code), ([infer("zeros"), EMPTY], None)):
            socket.send_multipart(sent)
            assert socket.poll(int(WAIT_S * 1e3))
            header = msgpack.unpackb(socket.recv_multipart()[0])
            assert header.get("code") == expected
    assert shared.client(policy="echo").infer({"tag": 1})["observation"] == {"tag": 1}


def test_the_workers_port_tells_robots_where_to_go(shared: Stack) -> None:
    with pytest.raises(errors.ProtocolError, match="this port is for workers: robots connect to"):
        ZmqPolicyClient("127.0.0.1", shared.backend, connect_timeout_s=WAIT_S)


def test_the_client_refuses_what_the_broker_would_not_take(shared: Stack) -> None:
    client = shared.client(policy="zeros")
    with pytest.raises(errors.MessageTooLarge, match=r"limits\.max_bytes"):
        client.infer({"image": np.zeros(16_000_001, np.uint8)})
    assert client.infer({"image": np.zeros(15_000_000, np.uint8)})["actions"].shape == (50, 14)


def report(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "client", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_python_m_client(shared: Stack) -> None:
    done = report("127.0.0.1", "--port", str(shared.frontend), "--timeout", str(WAIT_S))
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("client ", "broker ", "policy     echo: 1 ready", "zeros: 1 ready", "round trip "):
        assert word in done.stdout


def test_python_m_client_where_no_broker_is() -> None:
    done = report("127.0.0.1", "--port", "1", "--timeout", "0.2")
    assert done.returncode == 1
    assert "unreachable: no broker answers at tcp://127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
