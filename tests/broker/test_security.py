"""The guard's decisions, and the reading of keys."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zmq

from broker.security import BACKEND, FRONTEND, Guard, Identity, Keyring, Role, read_keys
from client.errors import Forbidden
from client.wire import Header, RequestId

A, B = b"a" * 16, b"b" * 16
PEERS = {
    "any": Identity("any", Role.robot, None),
    "one": Identity("one", Role.robot, frozenset({"aloha"})),
    "two": Identity("two", Role.robot, frozenset({"aloha", "droid"})),
    "gpu": Identity("gpu", Role.worker, frozenset({"aloha"})),
    "gpu2": Identity("gpu2", Role.worker, None),
    "boss": Identity("boss", Role.operator, None),
}


def guard() -> Guard:
    return Guard(Keyring(b"public", b"secret", PEERS))


def header(kind: str = "infer", client: bytes | None = A, **fields: object) -> Header:
    given: Header = {"v": 1, "kind": kind, **fields}
    if client is not None:
        given["id"] = RequestId(client, 1)
    return given


@pytest.mark.parametrize(
    ("door", "key", "reason"),
    [
        (FRONTEND, "any", ""),
        (FRONTEND, "boss", ""),
        (BACKEND, "gpu", ""),
        (FRONTEND, "gpu", "worker at the frontend"),
        (BACKEND, "any", "robot at the backend"),
        (BACKEND, "boss", "operator at the backend"),
        (FRONTEND, "stranger", "unknown key"),
        (BACKEND, "", "unknown key"),
    ],
)
def test_each_role_has_one_door(door: str, key: str, reason: str) -> None:
    assert guard().refusal(door, key) == reason


def test_a_robot_may_ask_for_its_policies_only() -> None:
    doorman = guard()
    assert doorman.admit_robot("two", b"s", header(policy="droid")).name == "two"
    with pytest.raises(Forbidden, match="is for aloha, droid"):
        doorman.admit_robot("two", b"s", header(policy="libero"))
    with pytest.raises(Forbidden, match="is for aloha, droid"):
        doorman.admit_robot("two", b"s", header("metadata", policy="libero"))
    with pytest.raises(Forbidden, match="name the one that you want"):
        doorman.admit_robot("two", b"s", header())
    assert doorman.admit_robot("any", b"s", header(client=B, policy="libero")).name == "any"


def test_a_key_for_one_policy_need_not_name_it() -> None:
    asked = header()
    guard().admit_robot("one", b"s", asked)
    assert asked["policy"] == "aloha"


def test_a_key_without_a_limit_leaves_the_header_alone() -> None:
    asked = header()
    guard().admit_robot("any", b"s", asked)
    assert "policy" not in asked


@pytest.mark.parametrize("kind", ["infer", "reset", "metadata", "ping"])
def test_a_uuid_belongs_to_the_key_that_used_it_first(kind: str) -> None:
    doorman = guard()
    doorman.admit_robot("any", b"s1", header())
    doorman.admit_robot("any", b"s2", header())  # over another connection
    with pytest.raises(Forbidden, match="another key"):
        doorman.admit_robot("one", b"s3", header(kind, policy="aloha"))


def test_the_routing_id_of_a_client_without_uuid_is_bound_too() -> None:
    doorman = guard()
    doorman.admit_robot("any", b"sender", header(client=None))
    with pytest.raises(Forbidden, match="another key"):
        doorman.admit_robot("one", b"other", header(client=b"sender"))


def test_a_key_that_uses_many_uuids_takes_only_its_own_room() -> None:
    doorman = guard()
    doorman.admit_robot("any", b"s", header())
    for number in range(1_000):
        doorman.admit_robot("one", b"s", header(client=number.to_bytes(16, "big")))
    with pytest.raises(Forbidden, match="another key"):
        doorman.admit_robot("one", b"s", header())
    assert len(doorman._owners) == 1 + 256 == 1 + len(doorman._owned["one"])


def test_only_operators_see_the_status() -> None:
    assert guard().admit_robot("boss", b"s", header("status")).role is Role.operator
    with pytest.raises(Forbidden, match="ask as an operator"):
        guard().admit_robot("any", b"s", header("status"))
    assert guard().admit_robot("boss", b"s", header("rollout")).role is Role.operator
    with pytest.raises(Forbidden, match="ask as an operator"):
        guard().admit_robot("any", b"s", header("rollout"))


def test_a_worker_may_serve_its_policies_only() -> None:
    doorman = guard()
    doorman.admit_worker("gpu", b"w1", header("hello", policy="aloha"))
    doorman.admit_worker("gpu", b"w1", header("heartbeat"))
    doorman.admit_worker("gpu2", b"w2", header("hello", policy="droid"))
    with pytest.raises(Forbidden, match="may serve aloha"):
        doorman.admit_worker("gpu", b"w1", header("hello", policy="droid"))
    with pytest.raises(Forbidden, match="may serve aloha"):
        doorman.admit_worker("gpu", b"w1", header("hello"))


def test_whoever_may_have_a_policy_may_have_its_versions() -> None:
    doorman = guard()
    doorman.admit_worker("gpu", b"w1", header("hello", policy="aloha@2"))
    doorman.admit_robot("one", b"s", header(policy="aloha@2"))
    with pytest.raises(Forbidden, match="may serve aloha"):
        doorman.admit_worker("gpu", b"w1", header("hello", policy="droid@2"))
    with pytest.raises(Forbidden, match="is for aloha"):
        doorman.admit_robot("one", b"s", header(policy="droid@2"))


def test_a_worker_cannot_speak_as_another_keys_worker() -> None:
    doorman = guard()
    doorman.admit_worker("gpu2", b"w", header("hello", policy="droid"))
    with pytest.raises(Forbidden, match="another key"):
        doorman.admit_worker("gpu", b"w", header("result"))


def test_a_revoked_key_is_refused_and_frees_its_uuids() -> None:
    doorman = guard()
    doorman.admit_robot("any", b"s", header())
    doorman.reload(Keyring(b"", b"", {key: PEERS[key] for key in PEERS if key != "any"}))
    assert doorman.refusal(FRONTEND, "any") == "unknown key"
    with pytest.raises(Forbidden, match="revoked"):
        doorman.admit_robot("any", b"s", header())
    assert not doorman._owners
    doorman.admit_robot("one", b"s", header())


def write(path: Path, **content: object) -> None:
    path.write_text(json.dumps(content))
    path.chmod(0o600)


def make_folder(folder: Path) -> str:
    """A broker's pair and one robot; returns the robot's public key."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    write(folder / "broker.key", public_key=public, secret_key=secret)
    robot = zmq.curve_keypair()[0].decode()
    write(folder / "arm.json", role="robot", policies=["aloha"], public_key=robot)
    return robot


def test_keys_are_read(tmp_path: Path) -> None:
    robot = make_folder(tmp_path)
    keyring = read_keys(tmp_path)
    assert keyring.peers == {robot: Identity("arm", Role.robot, frozenset({"aloha"}))}
    assert keyring.secret.decode() not in repr(keyring)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"role": "robot"}, "no public_key of 40 Z85 characters"),
        ({"role": "robot", "public_key": "short"}, "no public_key"),
        ({"role": "robot", "public_key": "~" * 40}, "no public_key"),
        ({"role": "robot", "public_key": "#" * 40}, "no public_key"),  # above 2^32
        ({"role": "robot", "public_key": 7}, "no public_key"),
        ({"role": "king", "public_key": "0" * 40}, "role 'king' is not one of robot, worker"),
        ({"role": ["robot"], "public_key": "0" * 40}, "is not one of"),
        ({"role": "robot", "public_key": "0" * 40, "policies": "aloha"}, "must be a list"),
        ({"role": "robot", "public_key": "0" * 40, "policies": [1]}, "must be a list"),
    ],
)
def test_a_file_that_is_no_key_is_named(
    tmp_path: Path, content: dict[str, object], reason: str
) -> None:
    make_folder(tmp_path)
    write(tmp_path / "odd.json", **content)
    with pytest.raises(ValueError, match=reason) as caught:
        read_keys(tmp_path)
    assert "odd.json" in str(caught.value)


def test_two_peers_cannot_have_one_key(tmp_path: Path) -> None:
    robot = make_folder(tmp_path)
    write(tmp_path / "twin.json", role="worker", public_key=robot)
    with pytest.raises(ValueError, match="same key as arm"):
        read_keys(tmp_path)


def test_a_folder_without_the_brokers_pair_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"scripts\.keys"):
        read_keys(tmp_path)


def test_the_brokers_keys_must_be_a_pair(tmp_path: Path) -> None:
    make_folder(tmp_path)
    public, secret = zmq.curve_keypair()[0].decode(), zmq.curve_keypair()[1].decode()
    write(tmp_path / "broker.key", public_key=public, secret_key=secret)
    with pytest.raises(ValueError, match="do not belong together"):
        read_keys(tmp_path)
