"""A link that goes silent while an answer is due: nobody is told, and nothing is unacknowledged."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.lan import network
from benchmarks.lan.links import LINKS
from benchmarks.lan.network import Network
from scripts.local.processes import Processes
from tests.e2e.policies import OPEN
from tests.e2e.stack import WAIT_S, eventually
from tests.hosts import needs_hosts

ROBOT = """
import json
from client import ZmqPolicyClient
with ZmqPolicyClient("192.0.2.3", 8000, timeout_s=90.0, connect_timeout_s=90.0) as client:
    print(json.dumps({"tag": client.infer({"tag": 7})["tag"]}), flush=True)
"""
NOBODY = "02:00:00:00:00:00"
SOON_S = 14.0  # ZeroMQ's own heartbeat, every 15 s, must not be what finds it


@needs_hosts
def test_a_robot_whose_answer_is_cut_gives_the_connection_up_and_is_served(tmp_path: Path) -> None:
    with Network(LINKS["unshaped"], tmp_path, "reno") as built, Processes(tmp_path) as processes:
        site = built.site()
        python = [*site.worker.inside, sys.executable, "-m"]
        ports = ("frontend=tcp://0.0.0.0:8000", "backend=tcp://127.0.0.1:8001", "insecure=true")
        processes.start_command("broker", [*python, "broker", *ports])
        gate = f"{{_target_: tests.e2e.policies.Gate, folder: {tmp_path}}}"
        processes.start_command(
            "worker", [*python, "worker", "broker=tcp://127.0.0.1:8001", f"policy={gate}"]
        )
        asking = [*site.robot.inside, sys.executable, "-c", ROBOT]
        robot = processes.start_command("robot", asking, talks=True)

        def connections() -> list[str]:
            """What each has not been acknowledged yet, in bytes."""
            seen = ["ss", "--tcp", "--numeric", "--no-header", "state", "established"]
            return [
                line.split()[1] for line in network.run([*site.robot.inside, *seen]).splitlines()
            ]

        def neighbour(do: str, *words: str) -> None:
            where = [site.robot.address, "dev", "to-robot"]
            network.run([*site.worker.inside, "ip", "neighbour", do, *where, *words])

        eventually(lambda: list(tmp_path.glob("*.inside")), "the inference began")
        eventually(lambda: connections() == ["0"], "the request was acknowledged")
        neighbour("replace", "lladdr", NOBODY, "nud", "permanent")
        (tmp_path / OPEN).touch()
        eventually(lambda: not connections(), "the robot gave its connection up", SOON_S)
        neighbour("delete")  # so that it is asked for again
        assert robot.answer(WAIT_S) == {"tag": 7}
