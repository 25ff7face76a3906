"""With keys, everyone gets what is theirs and nothing else: real processes, real sockets."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket as tcp
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.security import Role
from client import ZmqPolicyClient, errors
from client.wire import RequestId, encode_header
from scripts.keys import make, revoke
from scripts.local.processes import Process, Processes
from scripts.rollout.brokers import Broker
from tests.e2e.greeting import heard_out
from tests.e2e.site import PATIENCE_MS, PATIENCE_S, Site, ask, until

OBSERVATION = {"state": np.arange(14.0), "image": np.zeros((64, 64, 3), np.uint8)}
BODY = b"\x81\xa1x\x01"
_HANDSHAKE_S = 3.0


class Secured(Site):
    """A broker with keys, and one worker that serves `echo`."""

    broker: Process
    worker: Process


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("security")
    with Processes(folder / "logs") as processes:
        made = Secured(processes, folder / "keys")
        made.make("arm", Role.robot, "echo")
        made.make("leg", Role.robot)
        made.make("gpu", Role.worker, "echo")
        made.make("boss", Role.operator)
        made.make("ward", Role.operator, "echo", "other")
        made.broker = made.start_broker("limits.max_bytes=1000000", "log_format=json")
        made.worker = made.start_worker("echo", "policy=echo", "name=echo", key=made.key("gpu"))
        made.worker.wait_ready()
        yield made


def counters(site: Site) -> dict[str, int]:
    with site.client(site.key("boss")) as boss:
        told: dict[str, int] = boss.status()["counters"]
        return told


def assert_served(client: ZmqPolicyClient) -> None:
    answer = client.infer(OBSERVATION)
    np.testing.assert_array_equal(answer["observation"]["state"], OBSERVATION["state"])


def test_a_robot_with_a_key_is_served(site: Secured) -> None:
    with site.client(site.key("arm")) as arm:  # its key is for one policy: no need to name it
        assert_served(arm)
    with site.client(site.key("leg"), policy="echo") as leg:
        assert_served(leg)
        assert leg.get_server_metadata()


def test_an_unknown_key_is_refused_at_once_and_counted(site: Secured, tmp_path: Path) -> None:
    assert site.keys is not None
    file = make(tmp_path, "stranger", Role.robot, [])
    content = json.loads(file.read_text())
    content["broker_key"] = json.loads((site.keys / "broker.key").read_text())["public_key"]
    file.write_text(json.dumps(content))
    before = counters(site).get("frontend refused: unknown key", 0)
    with pytest.raises(errors.Forbidden, match="unknown there"), site.client(file):
        pass
    assert counters(site)["frontend refused: unknown key"] == before + 1


def test_without_a_key_the_error_says_that_one_is_needed(site: Secured) -> None:
    with (
        heard_out(site.port) as port,
        pytest.raises(errors.Forbidden, match="asks for a key"),
    ):
        ZmqPolicyClient("127.0.0.1", port, connect_timeout_s=PATIENCE_S)


def test_another_brokers_key_file_is_told_as_such(site: Secured, tmp_path: Path) -> None:
    file = make(tmp_path, "arm", Role.robot, [])
    before = counters(site).get("frontend handshake wrong", 0)
    with (
        pytest.raises(errors.ConnectionRefusedByPeer, match="key file .* for another broker"),
        site.client(file, connect_timeout_s=0.5),
    ):
        pass
    assert counters(site)["frontend handshake wrong"] > before


def test_who_is_no_worker_cannot_be_one(site: Secured) -> None:
    with heard_out(site.back) as port:
        claim, way = ("policy=noop", "name=echo"), f"broker=tcp://127.0.0.1:{port}"
        robot = site.start_worker("false leg", *claim, key=site.key("leg"))
        nobody = site.start_worker("false nobody", *claim, way)
        for false, said in ((robot, "refuses the key"), (nobody, "asks for a key")):
            assert false.wait(PATIENCE_S) == 4
            assert said in false.last_words()


def test_a_worker_is_no_robot(site: Secured) -> None:
    with pytest.raises(errors.Forbidden, match="refuses the key"), site.client(site.key("gpu")):
        pass
    assert counters(site)["frontend refused: worker at the frontend"] >= 1


def test_a_worker_cannot_serve_another_policy(site: Secured) -> None:
    false = site.start_worker("other", "policy=noop", "name=other", key=site.key("gpu"))
    assert false.wait(PATIENCE_S) == 4
    assert "may serve echo" in false.last_words()


def test_a_robot_cannot_pose_as_another(site: Secured) -> None:
    with site.client(site.key("arm")) as arm:
        assert_served(arm)
        stolen = RequestId(arm._session.client, 1)
        with site.raw(site.port, site.key("leg")) as leg:
            for kind in ("infer", "reset", "metadata", "ping"):
                answer = ask(leg, kind, stolen, BODY, policy="echo")
                assert answer["code"] == "forbidden"
                assert answer["id"] == stolen
            assert ask(leg, "infer", RequestId(b"l" * 16, 1), BODY, policy="echo")["id"]
        assert_served(arm)


def test_a_key_is_for_its_policies(site: Secured) -> None:
    with site.client(site.key("arm"), policy="other") as arm:
        with pytest.raises(errors.Forbidden, match="is for echo"):
            arm.infer(OBSERVATION)
        with pytest.raises(errors.Forbidden, match="is for echo"):
            arm.get_server_metadata()


def test_only_an_operator_sees_the_status(site: Secured) -> None:
    with site.client(site.key("arm")) as arm, pytest.raises(errors.Forbidden, match="operator"):
        arm.status()
    with site.client(site.key("boss")) as boss:
        told = boss.status()
        assert [worker["name"] for worker in told["workers"]] == ["echo"]
        assert told["counters"]["refused: forbidden"] >= 1


def test_only_an_operator_rolls_out_and_only_its_policies(site: Secured) -> None:
    def read(key: str, policy: str) -> dict[str, Any]:
        broker = Broker(f"127.0.0.1:{site.port}", policy, str(site.key(key)))
        try:
            return broker.read()
        finally:
            broker.close()

    for key in ("boss", "ward"):
        assert read(key, "echo")["policy"] == "echo"
    for key, policy, said in (
        ("arm", "echo", "ask as an operator"),
        ("leg", "echo", "ask as an operator"),
        ("ward", "secret", "is for echo, other"),
    ):
        with pytest.raises(errors.Forbidden, match=said):
            read(key, policy)


def test_slow_and_oversized_peers_are_cut_off_while_a_robot_goes_on(site: Secured) -> None:
    before = counters(site)
    half_open = [tcp.create_connection(("127.0.0.1", site.port)) for _ in range(20)]
    for connection in half_open:
        connection.sendall(b"\xff\0\0\0\0\0\0\0\x01\x7f\x03")  # a greeting's beginning
        connection.settimeout(PATIENCE_S)
    with site.client(site.key("arm")) as arm, site.raw(site.port, site.key("leg")) as leg:
        assert ask(leg, "ping", RequestId(b"l" * 16, 1))["kind"] == "pong"
        header = encode_header({"v": 1, "kind": "infer", "id": [b"l" * 16, 2]})
        leg.send_multipart([b"", header, bytes(2_500_000)])
        started = time.monotonic()
        while time.monotonic() < started + _HANDSHAKE_S + 0.5:
            assert_served(arm)
        assert not leg.poll(0), "the oversized message was answered"
    for connection in half_open:
        while connection.recv(1024):  # the broker's own greeting, and then the end
            pass
        connection.close()
    after = counters(site)
    unfinished = "frontend handshake unfinished"
    assert after[unfinished] >= before.get(unfinished, 0) + 20
    assert after["frontend closed"] >= before["frontend closed"] + 21


def test_a_crowd_at_the_door_leaves_a_robot_undisturbed(site: Secured) -> None:
    pid, descriptors = site.broker.pid, resource.RLIMIT_NOFILE
    used = len(os.listdir(f"/proc/{pid}/fd"))
    with site.client(site.key("arm")) as arm:
        soft, hard = resource.prlimit(pid, descriptors)
        resource.prlimit(pid, descriptors, (used + 10, hard))
        crowd = [tcp.create_connection(("127.0.0.1", site.port)) for _ in range(50)]
        for _ in range(20):
            assert_served(arm)
        resource.prlimit(pid, descriptors, (soft, hard))
        for connection in crowd:
            connection.close()
    with site.client(site.key("leg"), policy="echo") as leg:
        assert_served(leg)


def test_a_message_that_is_too_large_is_answered(site: Secured) -> None:
    with site.raw(site.port, site.key("leg")) as leg:
        answer = ask(leg, "infer", RequestId(b"l" * 16, 3), bytes(1_500_000), policy="echo")
        assert answer["code"] == "message_too_large"


def test_garbage_behind_a_good_key_is_refused(site: Secured) -> None:
    with site.client(site.key("arm")) as arm:
        with site.raw(site.port, site.key("leg")) as leg:
            leg.send_multipart([b"", b"\xc1garbage"])
            assert leg.poll(PATIENCE_MS)
            assert b"protocol_error" in leg.recv_multipart()[1]
            leg.send_multipart([b"x"] * 100)
            leg.send_multipart([b"", *[b"x"] * 100])
            assert leg.poll(PATIENCE_MS)
        assert_served(arm)


def test_a_revoked_key_is_out_at_the_next_message(site: Secured) -> None:
    assert site.keys is not None
    site.make("thief", Role.robot)
    os.kill(site.broker.pid, signal.SIGHUP)
    log = site.broker.log
    until(lambda: "6 peers may connect" in log.read_text())
    with (
        site.client(site.key("arm")) as arm,
        site.client(site.key("thief"), policy="echo") as thief,
    ):
        assert_served(thief)
        file = site.keys / "thief.key"
        secret = file.read_text()
        revoke(site.keys, "thief")
        file.write_text(secret)
        file.chmod(0o600)
        os.kill(site.broker.pid, signal.SIGHUP)
        until(lambda: "5 peers may connect" in log.read_text())
        with pytest.raises(errors.Forbidden, match="revoked"):
            thief.infer(OBSERVATION)
        with pytest.raises(errors.Forbidden, match="unknown there"), site.client(file):
            pass
        assert_served(arm)
    file.unlink()


def test_keys_that_cannot_be_read_leave_the_old_ones(site: Secured) -> None:
    assert site.keys is not None
    odd = site.keys / "odd.json"
    odd.write_text("{}")
    try:
        os.kill(site.broker.pid, signal.SIGHUP)
        until(lambda: "the old keys stay" in site.broker.log.read_text())
    finally:
        odd.unlink()
    with site.client(site.key("arm")) as arm:
        assert_served(arm)


def test_a_revoked_worker_leaves(site: Secured) -> None:
    assert site.keys is not None
    site.make("gpu-2", Role.worker, "spare")
    os.kill(site.broker.pid, signal.SIGHUP)
    until(lambda: site.broker.log.read_text().count("6 peers may connect") == 2)
    spare = site.start_worker("spare", "policy=noop", "name=spare", key=site.key("gpu-2"))
    spare.wait_ready()
    revoke(site.keys, "gpu-2")
    os.kill(site.broker.pid, signal.SIGHUP)
    assert spare.wait(PATIENCE_S) == 4
    with site.client(site.key("boss")) as boss:
        until(lambda: len(boss.status()["workers"]) == 1)


@pytest.mark.parametrize("end", ["frontend", "backend"])
def test_a_wide_port_without_keys_is_refused(tmp_path: Path, end: str) -> None:
    with Processes(tmp_path) as processes:
        site = Site(processes, None)
        broker = processes.start("broker", "broker", f"{end}=tcp://0.0.0.0:{site.port}")
        assert broker.wait(PATIENCE_S) == 2
        words = broker.last_words()
        assert "scripts.keys make" in words
        assert "insecure=true" in words


def test_a_wide_port_is_bound_with_keys_or_when_told(tmp_path: Path) -> None:
    with Processes(tmp_path / "logs") as processes:
        for name, setting in (("keys", f"keys={tmp_path / 'keys'}"), ("told", "insecure=true")):
            site = Site(processes, tmp_path / "keys")
            if name == "keys":
                site.make("arm", Role.robot)
            ends = (f"frontend=tcp://0.0.0.0:{site.port}", f"backend=tcp://0.0.0.0:{site.back}")
            broker = processes.start(name, "broker", *ends, setting)
            broker.wait_ready()
            assert ("anyone who reaches these ports" in broker.log.read_text()) == (name == "told")


def test_a_folder_without_keys_ends_the_broker_with_advice(tmp_path: Path) -> None:
    with Processes(tmp_path / "logs") as processes:
        site = Site(processes, None)
        ends = (f"frontend=tcp://0.0.0.0:{site.port}", f"backend=tcp://0.0.0.0:{site.back}")
        broker = processes.start("broker", "broker", *ends, f"keys={tmp_path / 'none'}")
        assert broker.wait(PATIENCE_S) == 2
        assert "scripts.keys --folder" in broker.last_words()


def test_keys_that_a_broker_doesnt_ask_for_are_told_as_such(tmp_path: Path) -> None:
    with Processes(tmp_path / "logs") as processes:
        site = Site(processes, None)
        site.start_broker()
        file = make(tmp_path / "keys", "arm", Role.robot, [])
        with (
            heard_out(site.port) as port,
            pytest.raises(errors.Forbidden, match="has no keys"),
        ):
            ZmqPolicyClient("127.0.0.1", port, key=file, connect_timeout_s=PATIENCE_S)
