"""OpenVLA's `POST /act`, by a client written from what is known of theirs."""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from tests.broker.gateway.site import KEYS, RunningGateway
from tests.e2e.stack import WAIT_S
from worker.policies.echo import fingerprint

IMAGE = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
ASKED = {"image": IMAGE, "instruction": "fold"}


def form(value: np.ndarray[Any, Any]) -> dict[str, Any]:
    data = base64.b64encode(value.tobytes()).decode()
    return {"__numpy__": data, "dtype": value.dtype.str, "shape": value.shape}


def read(found: dict[str, Any]) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(found["__numpy__"]), found["dtype"]).reshape(
        found["shape"]
    )


def post(
    gateway: RunningGateway, body: Any, robot: str = "arm-1", path: str = "/act"
) -> tuple[int, Any, str]:
    """Status, answer, and the reason of an error."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.ports["openvla"], timeout=WAIT_S)
    data = body if isinstance(body, bytes) else json.dumps(body, default=form).encode()
    headers = {"Authorization": f"Bearer {KEYS.get(robot, robot)}"}
    try:
        connection.request("POST", path, data, headers)
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    is_json = answer.headers.get_content_type() == "application/json"
    return answer.status, json.loads(text) if is_json else text, answer.headers.get("X-Error", "")


def test_the_answer_is_the_first_action(dialects: RunningGateway) -> None:
    status, found, _ = post(dialects, {**ASKED, "unnorm_key": "bridge", "seed": 3})
    assert status == 200
    action = read(found)
    assert action.shape == (14,)
    assert action[0] == fingerprint(ASKED)


def test_a_request_as_a_text_is_answered_with_a_text(dialects: RunningGateway) -> None:
    _, found, _ = post(dialects, {"encoded": json.dumps(ASKED, default=form)})
    assert isinstance(found, str)
    assert read(json.loads(found))[0] == fingerprint(ASKED)


def test_an_error_is_the_text_error(dialects: RunningGateway) -> None:
    status, found, reason = post(dialects, {"fault": "bad observation"}, robot="faulty")
    assert (status, found) == (200, "error")
    assert reason == "bad_observation: state: 14 numbers are expected, 13 came"


def test_a_wrong_key_is_refused(dialects: RunningGateway) -> None:
    status, found, reason = post(dialects, ASKED, robot="a-key-that-nobody-has")
    assert (status, found) == (401, "error")
    assert reason.startswith("forbidden: ")


def test_100_mb_are_refused(dialects: RunningGateway) -> None:
    try:
        status, found, reason = post(dialects, bytes(100_000_000))
    except (BrokenPipeError, ConnectionResetError):
        return  # hung up on while it still sent
    assert (status, found) == (413, "error")
    assert reason.startswith("message_too_large: ")


def array(**fields: Any) -> dict[str, Any]:
    return {"image": {**form(np.zeros(1)), **fields}}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x80\x04\x95",
        os.urandom(500),
        b"[1]",
        b"[" * 50_000,
        b"{" * 200_000,
        {"encoded": 5},
        {"encoded": "{"},
        array(dtype="|O"),
        array(dtype="|V8"),
        array(dtype="<c8"),
        array(dtype=[["a", "<f8"]]),
        array(shape=[2]),
        array(shape=[-1]),
        array(shape=None),
        array(__numpy__="%"),
        array(__numpy__=5),
    ],
)
def test_bad_input_is_the_text_error(dialects: RunningGateway, body: Any) -> None:
    status, found, reason = post(dialects, body)
    assert (status, found) == (200, "error")
    assert reason.startswith("protocol_error: ")


def test_other_paths_and_garbage_bother_nobody(dialects: RunningGateway) -> None:
    assert post(dialects, {}, path="/kill")[0] == 404
    for data in (os.urandom(4096), b"POST /act HTTP/1.1\r\nContent-Len"):
        with socket.create_connection(("127.0.0.1", dialects.ports["openvla"]), WAIT_S) as found:
            found.sendall(data)
    assert dialects.get("/healthz", "openvla", None) == (200, "OK\n")


def test_clients_at_once_get_each_their_own(dialects: RunningGateway) -> None:
    def ask(number: int) -> bool:
        asked = {**ASKED, "number": number}
        return bool(read(post(dialects, asked)[1])[0] == fingerprint(asked))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(16)))
