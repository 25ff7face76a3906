"""Fleets on three Ray nodes of this machine, which are started once for all of them.

One node is killed, others fail, all comes to an end. Then there is a fleet with two brokers, keys
and the gateway, and one whose list of brokers is half wrong.
"""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import websockets.sync.client

from broker.gateway import arrays
from broker.security import Role
from client import ZmqPolicyClient
from scripts.keys import make
from scripts.local.load import RIGHT, Habits, Outcome, Robot
from scripts.local.processes import Processes, free_ports
from tests.robots import Ask, Robots
from tests.scripts.fleet.machines import WAIT_S, Machines
from tests.scripts.fleet.site import Site

pytest.importorskip("ray", reason="the extra `fleet` is not installed")
pytestmark = pytest.mark.timeout(900)

FLEET = """
name: {name}
logs: {logs}
policies:
  echo: {{worker: [policy=echo], min: 2, max: 2, num_cpus: 0, num_gpus: 0, resources: {{arms: 1}}}}
  sleepy: {{worker: [policy=noop], min: 0, num_cpus: 0, num_gpus: 0}}
  unloaded: {{worker: [checkpoint=/no/such/checkpoint], num_cpus: 0, num_gpus: 0}}
  broken: {{worker: ["policy={{_target_: no.such.Policy}}"], num_cpus: 0, num_gpus: 0}}
  greedy: {{worker: [policy=noop], num_cpus: 0}}
  homeless: {{worker: [policy=noop], num_cpus: 0, num_gpus: 0, labels: {{zone: moon}}}}
brokers:
  main: {{frontend: {front}, backend: {back}, labels: {{zone: head}}}}
restarts: {{tries: 2, first_s: 0.1}}
ray: {{timeout_s: 300}}
"""
SECURED = """
name: {{name}}
logs: {{logs}}
key: {keys}/fleet.key
policies:
  echo: {{{{worker: [policy=echo, key={keys}/gpu.key], min: 2, max: 2, num_cpus: 0, num_gpus: 0}}}}
brokers:
  a: {{{{frontend: {{front}}, backend: {{back}}, settings: [keys={keys}]}}}}
  b: {{{{frontend: {front}, backend: {back}, settings: [keys={keys}]}}}}
gateway:
  run: true
  settings: [key={keys}/gateway.key, "openpi.listen=127.0.0.1:{openpi}",
    "http.listen=127.0.0.1:{http}"]
restarts: {{{{first_s: 0.1}}}}
ray: {{{{timeout_s: 300}}}}
"""
HALF_WRONG = """
name: {{name}}
logs: {{logs}}
policies:
  echo: {{{{worker: [policy=echo], num_cpus: 0, num_gpus: 0}}}}
brokers:
  dead: {{{{frontend: 9, backend: 11, run: false}}}}
  foreign: {{{{frontend: {foreign}, backend: {other}, run: false}}}}
  main: {{{{frontend: {{front}}, backend: {{back}}}}}}
ray: {{{{timeout_s: 300}}}}
"""
OBSERVATION = {"state": np.zeros(14, np.float32)}
ROOM = {"num_cpus": 1, "resources": {"arms": 2}}


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    head = {"num_cpus": 1, "labels": {"zone": "head"}}
    with Processes(tmp_path_factory.mktemp("machines")) as processes:
        machines = Machines(processes, [head, ROOM, ROOM])
        try:
            yield machines
        finally:
            machines.stop()


@pytest.fixture(scope="module")
def site(machines: Machines, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """With the fleet `one`, which the tests leave in this order until one takes it down."""
    site = Site(machines, tmp_path_factory.mktemp("fleet"))
    done = site.up("one", FLEET)
    assert done.returncode == 0, done.stderr
    return site


def both_serve(site: Site, but_not_on: str = "none") -> bool:
    members = [site.member(name) for name in ("echo-1", "echo-2")]
    return all(each["state"] == "ready" and but_not_on not in each["node"] for each in members)


def test_a_killed_machine_costs_no_request_and_its_workers_come_back_elsewhere(site: Site) -> None:
    site.until(lambda: both_serve(site), "two workers")
    outcomes: list[Outcome] = []
    goes_on = True
    habits = Habits(0.1, (WAIT_S,), (8,), policy="echo")
    robots = [
        Robot(number, site.front, 1, habits, lambda: goes_on, outcomes.append)
        for number in range(3)
    ]
    for robot in robots:
        robot.start()
    try:
        site.until(lambda: len(outcomes) > 10, "answers")
        dead = site.member("echo-1")["node"].rpartition("/")[2]
        site.machines.kill(dead)
        site.until(lambda: both_serve(site, dead), "two workers again")
        asked = len(outcomes)
        site.until(lambda: len(outcomes) > asked + 10, "more answers")
    finally:
        goes_on = False
    for robot in robots:
        robot.join(WAIT_S)
        assert not robot.is_alive()
    assert {outcome.kind for outcome in outcomes} == {RIGHT}


def test_a_robot_that_asks_wakes_a_policy_without_workers(site: Site) -> None:
    assert site.member("sleepy-1")["state"] == "none"
    with ZmqPolicyClient("127.0.0.1", site.front, policy="sleepy") as robot:
        answer = robot.infer({"state": np.zeros(14, np.float32)}, deadline_s=WAIT_S)
    assert answer["actions"].shape == (50, 14)
    assert site.machines.state("one")["policies"]["sleepy"]["change"] == "0 to 1: a robot asks"


def test_what_cannot_run_says_why(site: Site) -> None:
    site.until(lambda: site.member("broken-1")["state"] == "given up", "given up")
    assert "no.such.Policy" in site.member("broken-1")["reason"]
    site.until(lambda: site.member("unloaded-1")["state"] == "given up", "given up")
    assert "checkpoint=/no/such/checkpoint does not exist" in site.member("unloaded-1")["reason"]
    assert site.member("greedy-1")["state"] == "pending"
    site.until(lambda: "num_gpus=1" in site.member("greedy-1")["reason"], "what is missing")
    assert "no machine has more than 0" in site.member("greedy-1")["reason"]
    site.until(lambda: "zone=moon" in site.member("homeless-1")["reason"], "what is missing")
    shown = site.ask("status", "one")
    assert shown.returncode == 0, shown.stderr
    assert "given up" in shown.stdout
    said = site.ask("logs", "one", "broken")
    assert "broken-1 | " in said.stdout
    assert "no.such.Policy" in said.stdout


def test_two_fleets_on_one_cluster_do_not_mix(site: Site) -> None:
    again = site.up("one", FLEET)
    assert again.returncode == 2
    assert "runs already" in again.stderr
    strange = site.ask("scale", "one", "policy=ehco", "workers=2")
    assert strange.returncode == 2
    assert "'ehco' is not in this fleet: did you mean 'echo'?" in strange.stderr
    unknown = site.ask("down", "tow")
    assert unknown.returncode == 3
    assert "no fleet named 'tow' runs there" in unknown.stderr
    other = Site(site.machines, site.folder)
    small = FLEET.partition("  unloaded:")[0] + "brokers:" + FLEET.partition("brokers:")[2]
    assert other.up("two", small.replace("min: 2", "min: 0")).returncode == 0
    names = {each["name"] for each in site.machines.state("two")["members"]}
    assert names == {"broker:main-1"}
    ended = other.ask("down", "two")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert site.member("broker:main-1")["state"] == "ready"


def test_down_leaves_no_process(site: Site) -> None:
    ended = site.ask("down", "one")
    assert ended.returncode == 0, ended.stderr
    ours = f"tcp://127.0.0.1:{site.back}"
    left = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if any(ours in word for word in process.info["cmdline"] or ())
    ]
    assert left == []


def process_with(word: str) -> psutil.Process:
    """The one process that was started with this word."""
    (found,) = (
        each for each in psutil.process_iter(["cmdline"]) if word in (each.info["cmdline"] or ())
    )
    return found


@contextmanager
def direct(brokers: list[str], key: Path) -> Iterator[Ask]:
    """A robot that knows both brokers."""
    with ZmqPolicyClient(brokers, key=key, timeout_s=WAIT_S) as robot:

        def ask(_: int) -> None:
            robot.infer(OBSERVATION)

        yield ask


@contextmanager
def behind(openpi: int) -> Iterator[Ask]:
    """One of the gateway's."""
    url = f"ws://127.0.0.1:{openpi}"
    with websockets.sync.client.connect(url, open_timeout=WAIT_S) as robot:
        robot.recv(WAIT_S)

        def ask(_: int) -> None:
            robot.send(arrays.encode(OBSERVATION))
            answer = robot.recv(WAIT_S)
            assert isinstance(answer, bytes), answer

        yield ask


def ready(site: Site, *names: str) -> bool:
    return all(site.member(name)["state"] == "ready" for name in names)


def shown(http: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{http}/status", timeout=WAIT_S) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def test_two_brokers_with_keys_and_a_gateway_outlive_a_broker(
    machines: Machines, tmp_path: Path
) -> None:
    site, keys = Site(machines, tmp_path), tmp_path / "keys"
    for name, role in (("gpu", Role.worker), ("arm", Role.robot)):
        make(keys, name, role, [])
    for name in ("fleet", "gateway"):
        make(keys, name, Role.operator, [])
    front, back, openpi, http = free_ports(4)
    text = SECURED.format(keys=keys, front=front, back=back, openpi=openpi, http=http)
    done = site.up("one", text)
    assert done.returncode == 0, done.stderr
    site.until(lambda: ready(site, "echo-1", "echo-2", "gateway:main-1"), "all are ready")
    answers = {"a": "answers", "b": "answers"}
    site.until(lambda: machines.state("one")["brokers"] == answers, "the fleet's key is good")
    site.until(lambda: machines.state("one")["policies"]["echo"]["seen"] == 2, "both are seen")
    brokers = [f"127.0.0.1:{site.front}", f"127.0.0.1:{front}"]
    with Robots([partial(direct, brokers, keys / "arm.key"), partial(behind, openpi)]) as robots:
        robots.go_on(WAIT_S)
        process_with(f"backend=tcp://127.0.0.1:{site.back}").kill()
        robots.go_on(WAIT_S)
        site.until(lambda: site.member("broker:a-1")["restarts"] == 1, "it is started again")
        site.until(lambda: machines.state("one")["brokers"] == answers, "it answers again")
        robots.go_on(WAIT_S)
    site.until(
        lambda: [each["trouble"] for each in shown(http)["brokers"]] == ["", ""],
        "the gateway may ask both brokers",
    )
    ended = site.ask("down", "one")
    assert ended.returncode == 0, ended.stderr


def test_a_dead_and_a_foreign_broker_in_the_list_are_told_and_the_good_one_is_used(
    machines: Machines, tmp_path: Path
) -> None:
    site = Site(machines, tmp_path)
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):  # which accept, and say nothing
        foreign, other = (each.getsockname()[1] for each in (one, two))
        done = site.up("half", HALF_WRONG.format(foreign=foreign, other=other))
        assert done.returncode == 0, done.stderr
        site.until(lambda: site.member("echo-1", "half")["state"] == "ready", "a worker")

        def told() -> dict[str, str]:
            brokers: dict[str, str] = machines.state("half")["brokers"]
            return brokers

        site.until(lambda: told()["main"] == "answers", "the good one answers")
        site.until(lambda: "no broker answers" in told()["dead"], "the dead one is told")
        site.until(lambda: "stays silent" in told()["foreign"], "the foreign one is told")
        with ZmqPolicyClient("127.0.0.1", site.front, timeout_s=WAIT_S) as robot:
            robot.infer(OBSERVATION)
        assert site.ask("down", "half").returncode == 0
