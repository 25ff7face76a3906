"""Garbage on both ports of a real broker, while a robot works on undisturbed."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import zmq

from client import ZmqPolicyClient
from client.wire import FROM_CLIENT, FROM_WORKER
from scripts.local.deployment import Deployment
from scripts.local.load import RIGHT, Habits, Outcome, Quota, Robot
from scripts.local.processes import Processes
from tests.fuzz import vandal

REQUESTS = 150
LEAST = 20  # times each vandal must have struck, or nothing was shown


def vandals(stage: Deployment, over: threading.Event) -> list[vandal.Vandal]:
    """Three at each port."""
    harms = [
        harm
        for port, as_robot in ((stage.port, True), (stage.back, False))
        for harm in (
            partial(vandal.send_messages, port=port, kind=zmq.DEALER, as_robot=as_robot),
            partial(vandal.send_messages, port=port, kind=zmq.REQ, as_robot=as_robot),
            partial(vandal.send_bytes, port=port),
        )
    ]
    return [vandal.Vandal(seed, harm, over) for seed, harm in enumerate(harms)]


def test_a_robot_works_on_undisturbed(tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    over = threading.Event()
    with Processes(tmp_path) as processes:
        stage = Deployment(processes, 1, ["policy=echo"])
        stage.wait_ready()
        habits = Habits(0.02, policy="aloha_sim")
        robot = Robot(0, stage.port, 0, habits, Quota(REQUESTS).take, outcomes.append)
        attackers = vandals(stage, over)
        for thread in (*attackers, robot):
            thread.start()
        robot.join()
        over.set()
        for attacker in attackers:
            attacker.join()
        processes_alive = [place.process.is_alive() for place in (stage.broker, *stage.workers)]
        with ZmqPolicyClient("127.0.0.1", stage.port, policy="aloha_sim") as client:
            assert client.get_server_metadata()["model"] == "echo"
            ready = client.ping()["policies"]["aloha_sim"]
    assert [outcome for outcome in outcomes if outcome.kind != RIGHT] == []
    assert len(outcomes) == REQUESTS
    assert min(attacker.done for attacker in attackers) > LEAST
    assert processes_alive == [True, True]
    assert ready == {"ready": 1}
    assert "Traceback" not in (tmp_path / "broker-life-1.log").read_text()


def test_the_vandal_says_a_bit_of_everything() -> None:
    assert vandal.kinds_covered(0, 500) >= {*FROM_CLIENT, *FROM_WORKER}
