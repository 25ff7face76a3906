"""The WebSockets of RoboArena, StarVLA and vla-eval, by clients written from what we know."""

from __future__ import annotations

import io
import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

import msgpack
import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from broker.gateway import arrays
from tests.broker.gateway.site import KEYS, RunningGateway
from tests.e2e.stack import WAIT_S
from worker.policies.echo import fingerprint

OBSERVATION = {"state": np.arange(14, dtype=np.float32), "prompt": "fold"}
SECTIONS = ("roboarena", "starvla", "vla_eval")


def expected(observation: dict[str, Any]) -> float:
    return float(fingerprint(observation))


class Client:
    """One WebSocket of a dialect."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.metadata: Any = None

    def receive(self) -> Any:
        answer = self.socket.recv(WAIT_S)
        return answer if isinstance(answer, str) else arrays.decode(answer)

    def ask(self, message: Any) -> Any:
        self.socket.send(message if isinstance(message, bytes) else arrays.encode(message))
        return self.receive()

    def frame(self, kind: str, payload: Any, seq: int = 5) -> bytes:
        """One of vla-eval's."""
        whole = {"type": kind, "payload": payload, "seq": seq, "timestamp": 0.0}
        packed: bytes = msgpack.packb(whole, default=text_keys)
        return packed


def text_keys(value: np.ndarray[Any, Any]) -> dict[str, Any]:
    form = {"data": value.tobytes(), "dtype": value.dtype.str, "shape": list(value.shape)}
    return {"__ndarray__": True, **form}


@contextmanager
def connected(gateway: RunningGateway, section: str, robot: str = "arm-1") -> Iterator[Client]:
    key = KEYS.get(robot, robot)
    with connect(
        gateway.url("/", section),
        additional_headers={"Authorization": f"Api-Key {key}"},
        compression=None,
        max_size=None,
        open_timeout=WAIT_S,
    ) as found:
        client = Client(found)
        if section != "vla_eval":
            client.metadata = client.receive()
        yield client


def test_roboarena_says_what_the_robot_is_and_keeps_sessions_apart(
    dialects: RunningGateway,
) -> None:
    with connected(dialects, "roboarena") as client:
        assert client.metadata == {
            "image_resolution": None,
            "needs_wrist_camera": True,
            "n_external_cameras": 1,
            "needs_stereo_camera": False,
            "needs_session_id": False,
            "action_space": "joint_position",
        }
        for session in range(12):  # more than a connection may have
            answer = client.ask({**OBSERVATION, "endpoint": "infer", "session_id": f"s{session}"})
            assert answer["actions"][0, 0] == expected(OBSERVATION)
        assert set(answer) == {"actions"}
        again = client.ask({"endpoint": "reset", "session_id": "s0"})
        status = json.loads(dialects.get("/status")[1])
        mine = [each for each in status["gateway"]["clients"] if each["dialect"] == "roboarena"]
    assert again == "reset successful"
    assert len(mine) == 8


def test_roboarenas_seed_is_ours_and_its_errors_are_text(dialects: RunningGateway) -> None:
    with connected(dialects, "roboarena", robot="faulty") as client:
        refused = client.ask({"fault": "bad observation"})
        assert refused == "bad_observation: state: 14 numbers are expected, 13 came"
        assert client.ask({"endpoint": "kill"}).startswith("protocol_error: endpoint 'kill'")
        assert client.ask({"session_id": "x" * 500}).startswith("bad_observation: session_id")
        assert client.ask({"seed": 4})["actions"].shape == (5, 2)
        assert client.ask({"seed": "x"}).startswith("bad_observation: seed")


def test_starvla_pings_and_infers_flat_and_nested(dialects: RunningGateway) -> None:
    image = np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8)
    examples: list[dict[str, Any]] = [
        {"image": [image, image], "lang": "fold"},
        {"image": image, "lang": "unfold"},
    ]
    ours = {"lang": "fold", "image.0": image, "image.1": image}
    with connected(dialects, "starvla") as client:
        pong = client.ask({"type": "ping", "request_id": "a"})
        nested = client.ask({"type": "infer", "request_id": 7, "payload": {"examples": examples}})
        flat = client.ask({"examples": examples[1:], "unnorm_key": "x"})
    assert pong == {"status": "ok", "ok": True, "type": "ping", "request_id": "a"}
    assert nested["request_id"] == 7
    assert nested["ok"] is True
    actions = nested["data"]["actions"]
    assert actions.shape == (2, 50, 14)
    assert actions[0, 0, 0] == np.float32(expected(ours))
    assert actions[1, 0, 0] == np.float32(expected(examples[1]))
    assert np.array_equal(flat["data"]["actions"], actions[1:])


@pytest.mark.parametrize(
    "message",
    [
        b"\xc1",
        msgpack.packb([1]),
        msgpack.packb({"type": "kill", "request_id": 1}),
        msgpack.packb({"type": ["x"]}),
        msgpack.packb({"request_id": [1]}),
        msgpack.packb({"examples": []}),
        msgpack.packb({"examples": [1]}),
        msgpack.packb({"payload": 5}),
    ],
)
def test_starvlas_errors_are_maps(dialects: RunningGateway, message: bytes) -> None:
    with connected(dialects, "starvla") as client:
        refused = client.ask(message)
        assert refused["ok"] is False
        assert refused["status"] == "error"
        assert refused["error"]["message"].split(":")[0] in ("protocol_error", "bad_observation")
        assert client.ask({"type": "ping"})["ok"]


def test_vla_eval_hands_out_actions_one_by_one(dialects: RunningGateway) -> None:
    with connected(dialects, "vla_eval") as client:
        hello = client.ask(
            client.frame("hello", {"harness_version": "0.8.0", "protocol_version": 1}, 0)
        )
        assert hello["type"] == "hello"
        assert hello["payload"]["protocol_version"] == 1
        client.socket.send(client.frame("episode_start", {}, 1))
        answers = [
            client.ask(client.frame("observation", {**OBSERVATION, "step": step}, 2 + step))
            for step in range(3)
        ]
        client.socket.send(client.frame("episode_end", {}, 9))
        fresh = client.ask(client.frame("observation", OBSERVATION, 10))
    assert [answer["seq"] for answer in answers] == [2, 3, 4]
    assert answers[0]["payload"]["actions"].shape == (14,)
    firsts = [float(answer["payload"]["actions"][0]) for answer in answers]
    wanted = [float(np.float32(expected({**OBSERVATION, "step": step}))) for step in range(3)]
    assert firsts == [wanted[0], wanted[0], wanted[2]], "two of a chunk, as vla_eval.chunk says"
    assert fresh["payload"]["actions"][0] == np.float32(expected(OBSERVATION))


@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_vla_evals_images_are_decoded(dialects: RunningGateway, form: str) -> None:
    image = np.full((16, 16, 3), 128, np.uint8)
    file = io.BytesIO()
    Image.fromarray(image).save(file, form)
    sent = {"__image__": True, "format": form, "data": file.getvalue(), "shape": [16, 16, 3]}
    with connected(dialects, "vla_eval") as client:
        answer = client.ask(client.frame("observation", {"images": {"agentview": sent}}))
    wanted = expected({"images": {"agentview": image}})
    assert answer["payload"]["actions"][0] == np.float32(wanted)


def blank(side: int) -> bytes:
    """A small file of many pixels."""
    file = io.BytesIO()
    Image.new("1", (side, side)).save(file, "png")
    return file.getvalue()


def test_vla_evals_errors_are_frames(dialects: RunningGateway) -> None:
    with connected(dialects, "vla_eval") as client:

        def image(**fields: Any) -> bytes:
            return client.frame("observation", {"images": {"a": {"__image__": True, **fields}}})

        for message in (
            b"\xc1",
            msgpack.packb({"type": "kill"}),
            client.frame("kill", {}),
            client.frame("observation", 5),
            client.frame("hello", {"protocol_version": 9}),
            image(format="png", data=b"PK"),
            image(format="tiff", data=b""),
            image(format="png", data=blank(20_000)),
            image(format="png", data=blank(5_000)),
            image(format="raw", data=b"x", dtype="|O", shape=[1]),
        ):
            refused = client.ask(message)
            assert refused["type"] == "error", message
            assert ": " in refused["payload"]["error"]
        assert client.ask(client.frame("hello", {}))["type"] == "hello"


def test_vla_evals_pages(dialects: RunningGateway) -> None:
    assert dialects.get("/health", "vla_eval", None) == (200, '{"status": "ok"}\n')
    assert json.loads(dialects.get("/config", "vla_eval", None)[1])["chunk"] == 2


@pytest.mark.parametrize("section", SECTIONS)
def test_a_wrong_key_is_refused_in_the_handshake(dialects: RunningGateway, section: str) -> None:
    with (
        pytest.raises(InvalidStatus) as refused,
        connected(dialects, section, "a-key-that-nobody-has"),
    ):
        pass
    assert refused.value.response.status_code == 401


@pytest.mark.parametrize("section", SECTIONS)
def test_garbage_half_a_handshake_and_100_mb_bother_nobody(
    dialects: RunningGateway, section: str
) -> None:
    for data in (os.urandom(4096), b"GET / HTTP/1.1\r\nHost: here\r\nUpgra"):
        with socket.create_connection(("127.0.0.1", dialects.ports[section]), WAIT_S) as found:
            found.sendall(data)
    with connected(dialects, section) as client:
        with suppress(ConnectionClosed):  # while it was still being sent
            client.socket.send(bytes(100_000_000))
        with pytest.raises(ConnectionClosed):
            client.receive()
    with connected(dialects, section) as client:
        client.socket.send("hello")
        assert "a text came" in str(client.receive())


def test_clients_at_once_get_each_their_own(dialects: RunningGateway) -> None:
    def ask(number: int) -> bool:
        observation = {**OBSERVATION, "number": number}
        with connected(dialects, "roboarena") as client:
            found = client.ask({**observation, "session_id": "one"})["actions"][0, 0]
        return bool(found == expected(observation))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(16)))
