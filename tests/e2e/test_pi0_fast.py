"""pi0-FAST through client, broker and worker, each a process of its own."""

from pathlib import Path

import numpy as np

from client import ZmqPolicyClient
from scripts.local.processes import Processes, free_ports
from tests.golden import FAST_CHECKPOINT, cases, overrides

SETTINGS = [*overrides(FAST_CHECKPOINT), "device=cpu", "dtype=float32", "runtime.threads=1"]


def test_golden_actions_come_back_through_all_processes(tmp_path: Path) -> None:
    front, back = free_ports(2)
    with Processes(tmp_path) as processes:
        ends = [f"frontend=tcp://127.0.0.1:{front}", f"backend=tcp://127.0.0.1:{back}"]
        processes.start("broker", "broker", *ends).wait_ready()
        worker = processes.start("worker", "worker", *SETTINGS, f"broker=tcp://127.0.0.1:{back}")
        worker.wait_ready()
        with ZmqPolicyClient("127.0.0.1", front, timeout_s=60.0) as client:
            assert client.get_server_metadata()["model"] == "pi0_fast"
            for case in cases(FAST_CHECKPOINT):
                actions = client.infer(case.observation)["actions"]
                np.testing.assert_allclose(actions, case.actions, atol=1e-3, rtol=0)
