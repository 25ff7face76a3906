"""openpi's socket, by a client written from what is known of it, and by the stock client."""

from __future__ import annotations

import json
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from benchmarks.openpi_venv import ROOT, openpi_environment, openpi_python
from tests.broker.gateway.site import KEYS, RunningGateway, Site
from tests.e2e.stack import WAIT_S, eventually
from worker.policies.echo import fingerprint

OBSERVATION = {"state": np.arange(14, dtype=np.float32), "prompt": "fold"}


def expected(observation: dict[str, Any]) -> float:
    return float(fingerprint(observation))


def test_metadata_comes_first_and_then_each_observation_has_its_answer(
    gateway: RunningGateway,
) -> None:
    with gateway.connect() as client:
        assert client.metadata["model"] == "echo"
        first, second = client.ask(OBSERVATION), client.ask({**OBSERVATION, "prompt": "unfold"})
    assert first["actions"].shape == (50, 14)
    assert set(first["actions"].ravel()) == {expected(OBSERVATION)}
    assert second["actions"][0, 0] == expected({**OBSERVATION, "prompt": "unfold"})
    assert first["server_timing"]["infer_ms"] >= 0.0
    assert "prev_total_ms" not in first["server_timing"]
    assert second["server_timing"]["prev_total_ms"] > 0.0
    assert "infer_ms" in first["policy_timing"]


def test_a_large_image_arrives_to_the_last_bit(gateway: RunningGateway) -> None:
    image = np.random.default_rng(1).integers(0, 256, (480, 640, 3), np.uint8)
    observation = {**OBSERVATION, "images": {"cam_high": image}}
    with gateway.connect() as client:
        assert client.ask(observation)["actions"][0, 0] == expected(observation)


def test_an_error_is_one_line_of_text_and_the_connection_stays(gateway: RunningGateway) -> None:
    with gateway.connect(robot="faulty") as client:
        refused = client.ask({"fault": "bad observation"})
        raised = client.ask({"fault": "hand"})
        answered = client.ask({"state": 1})
    assert refused == "bad_observation: state: 14 numbers are expected, 13 came"
    assert raised.startswith("policy_failed: ")
    assert "\n" not in raised
    assert answered["actions"].shape == (5, 2)


def test_a_seed_is_ours(gateway: RunningGateway) -> None:
    with gateway.connect(robot="faulty") as client:
        assert client.ask({"seed": 7})["seed"] == 7
        assert client.ask({"sampling_params": {"seed": 8, "num_inference_steps": 4}})["seed"] == 8
        assert client.ask({"seed": "x"}).startswith("bad_observation: seed")


def test_clients_at_once_get_each_their_own(gateway: RunningGateway) -> None:
    def ask(number: int) -> bool:
        observation = {**OBSERVATION, "number": number}
        with gateway.connect() as client:
            answers = [client.ask(observation)["actions"][0, 0] for _ in range(3)]
        return answers == [expected(observation)] * 3

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(16)))


def test_a_reset_begins_another_episode(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        assert client.ask({"endpoint": "reset"}) == "reset successful"
        client.ask({**OBSERVATION, "session_id": "one"})
        other = client.ask({**OBSERVATION, "session_id": "two"})
    assert other["actions"][0, 0] == expected(OBSERVATION)


def test_keys_are_mapped_and_actions_named_as_the_settings_say(
    shared_site: Site, tmp_path: Path
) -> None:
    mapping = tmp_path / "two_parts.yaml"
    mapping.write_text(
        "observation: {state: [joints.left, joints.right], images.cam: [camera]}\n"
        "actions: {left: [0, 7], right: [7, 14]}\n"
    )
    running = shared_site.gateway(
        f"openpi.mapping={mapping}", "openpi.policy=echo", "http.listen=null", sections=("openpi",)
    )
    running.process.wait_ready()
    image = np.zeros((16, 16, 3), np.uint8)
    theirs = {"joints": {"left": np.zeros(3), "right": np.ones(4)}, "camera": image, "other": 1}
    ours = {"state": np.array([0.0] * 3 + [1.0] * 4), "images": {"cam": image}}
    with running.connect(robot=None) as client:
        answer = client.ask(theirs)
        missing = client.ask({"camera": image})
    with running.connect("/v1/realtime/robot/openpi", robot=None) as client:
        named = client.ask(theirs)
    running.process.terminate()
    assert answer["actions"][0, 0] == expected(ours)
    assert missing.startswith("bad_observation: the observation has no joints.left, joints.right")
    assert {name: part.shape for name, part in named.items()} == {"left": (50, 7), "right": (50, 7)}


def test_the_form_of_vllm_omni(gateway: RunningGateway) -> None:
    path = "/v1/realtime/robot/openpi"
    with gateway.connect(path) as client:
        actions = client.ask({**OBSERVATION, "endpoint": "infer", "session_id": "one"})
        assert isinstance(actions, np.ndarray)
        assert actions[0, 0] == expected(OBSERVATION)
        assert client.ask({"endpoint": "reset"}) == {"status": "reset successful"}
    with gateway.connect(path, robot="faulty") as client:
        refused = client.ask({"fault": "bad observation"})
    assert refused["type"] == "error"
    assert refused["message"].startswith("bad_observation: state")


@pytest.mark.parametrize("path", ["/openpi/policy", "/v1/actions/realtime"])
def test_the_form_of_sglang(gateway: RunningGateway, path: str) -> None:
    with gateway.connect(path) as client:
        answer = client.ask({**OBSERVATION, "output_format": "numpy"})
        assert answer["actions"][0, 0] == expected(OBSERVATION)
    with gateway.connect(path, robot="faulty") as client:
        refused = client.ask({"fault": "bad observation"})
        assert refused["error"].startswith("bad_observation: state")
        with pytest.raises(ConnectionClosed) as closed:
            client.receive()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1011


def test_the_form_of_the_fork_with_real_time_chunking(gateway: RunningGateway) -> None:
    with gateway.connect() as client:
        first = client.ask({"obs": OBSERVATION, "prev_action": None, "use_rtc": False})
        again = client.ask(
            {"obs": OBSERVATION, "prev_action": first["origin_actions"], "use_rtc": True}
        )
    assert first["actions"][0, 0] == expected(OBSERVATION)
    assert np.array_equal(first["origin_actions"], first["actions"])
    # It reached the policy, which is none that could use it.
    assert again.startswith("bad_observation: prev_actions")


@pytest.mark.parametrize("key", [None, "a-key-that-nobody-has"])
def test_a_wrong_key_is_refused_in_the_handshake(gateway: RunningGateway, key: str | None) -> None:
    headers = {} if key is None else {"Authorization": f"Api-Key {key}"}
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(gateway.url(), additional_headers=headers),
    ):
        pass
    assert refused.value.response.status_code == 401
    assert b"Api-Key" in (refused.value.response.body or b"")


def test_a_policy_that_nobody_serves_closes_with_the_reason(gateway: RunningGateway) -> None:
    with pytest.raises(ConnectionClosed, match="unknown_policy"):
        gateway.connect(robot="ghost")


def test_a_health_check_is_answered_while_an_inference_hangs(
    shared_site: Site, gateway: RunningGateway
) -> None:
    shared_site.stack.close_gate()
    try:
        with gateway.connect(robot="gate") as client:
            client.send({"tag": 1})
            inside = shared_site.stack.folder
            eventually(lambda: list(inside.glob("*.inside")), "the worker has it")
            assert gateway.get("/healthz", "openpi", robot=None) == (200, "OK\n")
            with gateway.connect() as other:
                assert other.ask(OBSERVATION)["actions"][0, 0] == expected(OBSERVATION)
            shared_site.stack.open_gate()
            assert client.receive()["tag"] == 1
    finally:
        shared_site.stack.open_gate()


def test_pings_are_answered_while_an_inference_lasts(
    shared_site: Site, gateway: RunningGateway
) -> None:
    shared_site.stack.close_gate()
    try:
        # It would hang up by itself if one was not answered for two seconds.
        with gateway.connect(robot="gate", ping_interval=0.1, ping_timeout=2.0) as client:
            client.send({"tag": 1})
            eventually(lambda: list(shared_site.stack.folder.glob("*.inside")), "it has begun")
            time.sleep(2.5)
            assert client.socket.latency > 0.0  # of the last ping
            shared_site.stack.open_gate()
            assert client.receive()["tag"] == 1
    finally:
        shared_site.stack.open_gate()


def test_a_client_that_hangs_up_ends_its_inference(
    shared_site: Site, gateway: RunningGateway
) -> None:
    shared_site.stack.close_gate()
    try:
        client = gateway.connect(robot="gate")
        client.send({"tag": 1})
        eventually(lambda: list(shared_site.stack.folder.glob("*.inside")), "the worker has it")
        client.close()

        def is_counted() -> bool:
            return 'outcome="client_closed",policy="staged"' in gateway.get("/metrics")[1]

        eventually(is_counted, "the gateway has given it up")
    finally:
        shared_site.stack.open_gate()


def test_the_stock_client_is_served_unmodified(gateway: RunningGateway) -> None:
    arguments = [str(gateway.ports["openpi"]), KEYS["arm-1"], KEYS["faulty"]]
    done = subprocess.run(
        [str(openpi_python()), "-m", "tests.broker.gateway.stock_openpi_robot", *arguments],
        cwd=ROOT,
        env=openpi_environment(),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["metadata"]["model"] == "echo"
    assert told["answers"] == [
        [[50, 14], expected({"state": np.full(14, n), "prompt": "fold"})] for n in range(3)
    ]
    assert told["chunked"] == [[14], expected({"state": np.full(14, 0), "prompt": "fold"})]
    assert "bad_observation: state: 14 numbers are expected" in told["error"]
    assert told["after the error"] == [5, 2]
    assert "401" in told["wrong key"]


def test_a_broker_that_restarts_costs_a_client_nothing(site: Site) -> None:
    broker = site.stack.broker()
    site.stack.worker("echo").wait_ready()
    running = site.gateway()
    running.process.wait_ready()
    with running.connect(robot=None) as client:
        assert client.ask(OBSERVATION)["actions"][0, 0] == expected(OBSERVATION)
        broker.kill()
        client.send(OBSERVATION)
        time.sleep(0.1)
        site.stack.broker()
        assert client.receive()["actions"][0, 0] == expected(OBSERVATION)
