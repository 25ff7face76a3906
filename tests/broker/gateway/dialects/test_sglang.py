"""SGLang's action API, by a client written from its server's public sources."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from broker.gateway import arrays
from tests.broker.gateway.site import KEYS, RunningGateway
from tests.e2e.stack import WAIT_S
from worker.policies.echo import fingerprint

IMAGE = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
STATE = np.array([0.5, 1.5])
OURS = {"images": {"base_0_rgb": IMAGE}, "state": STATE, "prompt": "fold"}
PATH = "/v1/actions/generations"


def png(pixels: np.ndarray[Any, Any]) -> str:
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()


def post(
    gateway: RunningGateway,
    body: Any,
    robot: str = "arm-1",
    kind: str = "application/json",
    path: str = PATH,
) -> tuple[int, Any]:
    """Status and answer."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.ports["sglang"], timeout=WAIT_S)
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {KEYS.get(robot, robot)}", "Content-Type": kind}
    try:
        connection.request("POST" if body is not None else "GET", path, data, headers)
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.headers.get_content_type() == "application/msgpack":
        return answer.status, arrays.decode(text)
    is_json = answer.headers.get_content_type() == "application/json"
    return answer.status, json.loads(text) if is_json else text


def asked(image: Any, **fields: Any) -> dict[str, Any]:
    observation = {"images": {"base_0_rgb": image}, "state": STATE.tolist(), "step_id": 0}
    return {"input": {"task": "fold", "observation": observation}, "request_id": "mine", **fields}


def echo_of(ours: dict[str, Any]) -> float:
    """What the echo's actions are, as the API's float32."""
    return float(np.float32(fingerprint(ours)))


@pytest.mark.parametrize(
    "image",
    [
        IMAGE.tolist(),
        {"b64_json": png(IMAGE)},
        {"base64": png(IMAGE), "mime_type": "image/png"},
        {"base64": f"data:image/png;base64,{png(IMAGE)}"},
        {"values": IMAGE.reshape(-1).tolist(), "dtype": "uint8", "shape": [8, 8, 3]},
    ],
    ids=["pixels", "b64_json", "base64", "data url", "values"],
)
def test_an_image_of_any_form_reaches_the_policy(dialects: RunningGateway, image: Any) -> None:
    status, found = post(dialects, asked(image, parameters={"seed": 3, "num_inference_steps": 5}))
    assert status == 200, found
    assert (found["id"], found["object"]) == ("mine", "action.generation")
    (data,) = found["data"]
    assert data["action"]["shape"] == [50, 14]
    assert data["action"]["values"][0][0] == echo_of(OURS)
    assert found["usage"]["action_horizon"] == 50
    assert found["timings"]["total_ms"] > 0


def test_msgpack_is_answered_with_arrays_and_raw_without_an_envelope(
    dialects: RunningGateway,
) -> None:
    observation = {"observation.images.base_0_rgb": IMAGE, "observation.state": STATE}
    body = {**observation, "prompt": "fold", "runtime": {"response_format": "raw"}}
    status, found = post(dialects, arrays.encode(body), kind="application/msgpack")
    assert status == 200, found
    assert found["actions"].dtype == np.float32
    assert found["actions"].shape == (50, 14)
    assert found["actions"][0, 0] == echo_of(OURS)


def test_metadata_tell_what_an_answer_looks_like(dialects: RunningGateway) -> None:
    status, found = post(dialects, None, path="/v1/actions/metadata")
    assert (status, found["object"]) == (200, "action.metadata")
    assert (found["output"]["action_horizon"], found["output"]["action_dim"]) == (50, 14)


def test_errors_have_their_status(dialects: RunningGateway) -> None:
    status, found = post(dialects, {"fault": "bad observation"}, robot="faulty")
    detail = "bad_observation: state: 14 numbers are expected, 13 came"
    assert (status, found) == (400, {"detail": detail})
    assert post(dialects, {"fault": "such"}, robot="faulty")[0] == 500
    status, found = post(dialects, asked(IMAGE.tolist()), robot="a-key-that-nobody-has")
    assert (status, found["detail"].partition(":")[0]) == (401, "forbidden")
    assert post(dialects, {}, path="/v1/chat/completions")[0] == 404
    assert dialects.get("/health", "sglang", None) == (200, "OK\n")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x80\x04\x95",
        os.urandom(500),
        b"[1]",
        b"[" * 50_000,
        b"[" * 1_100_000,
        {"input": 5},
        {"input": {"observation": [1]}},
        {"input": {"images": [1]}},
        {"parameters": 3},
        {"runtime": {"response_format": "csv"}},
        {"runtime": "csv"},
        {"noise": [[1.0]]},
        {"state": ["x"]},
        {"state": [[1], [1, 2]]},
        {"state": {"values": [1], "dtype": "O"}},
        {"state": {"values": [1], "shape": [2]}},
        {"state": {"values": [1], "shape": "x"}},
        asked({"b64_json": 5}),
        asked({"b64_json": "%"}),
        asked({"base64": base64.b64encode(b"GIF89a").decode()}),
        asked([[[300, 0, 0]]]),
        asked([[[-1, 0, 0]]]),
    ],
)
def test_bad_input_is_refused_with_400(dialects: RunningGateway, body: Any) -> None:
    status, found = post(dialects, body)
    assert status == 400, found
    assert found["detail"].startswith(("protocol_error: ", "bad_observation: "))


def test_clients_at_once_get_each_their_own(dialects: RunningGateway) -> None:
    def ask(number: int) -> bool:
        found = post(dialects, {"input": {"task": f"fold {number}"}})[1]
        ours = {"prompt": f"fold {number}"}
        return bool(found["data"][0]["action"]["values"][0][0] == echo_of(ours))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(16)))
