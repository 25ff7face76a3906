"""The robots and policies that the page shows."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from websockets.sync.client import connect

from client import ZmqPolicyClient
from client.errors import PolicyError
from scripts.local.processes import Processes
from scripts.page_shots.site import Site

ROBOTS, HZ = 100, 2.0


class Waves:
    """A policy that takes its time and answers with smooth motion, so that plots show some."""

    digest = "waves"

    def __init__(self, time_s: float) -> None:
        self._time_s = time_s
        self.metadata = {"model": "waves", "action_horizon": 50, "action_dim": 14}

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Float64 (50, 14)."""
        time.sleep(self._time_s)
        start = float(np.sum(observation["state"]))
        steps, joints = np.mgrid[0:50, 0:14]
        return {"actions": np.sin(start + steps / 12.0 + joints) * (1 + joints / 7.0)}


@contextlib.contextmanager
def fleet(processes: Processes, site: Site) -> Iterator[None]:
    """Two policies and a hundred robots, of which two come by openpi's socket."""
    served = {"aloha": 0.004, "droid": 0.006, "slow": 1.0}
    workers = [
        processes.start(
            f"{site.name} worker {name} {number}",
            "worker",
            f"broker=[{','.join(site.backends)}]",
            f"name={name}",
            f"policy={{_target_: scripts.page_shots.robots.Waves, time_s: {time_s}}}",
        )
        for name, time_s in served.items()
        for number in range(2 if name != "slow" else 1)
    ]
    for worker in workers:
        worker.wait_ready()
    stopping = threading.Event()
    threads = [
        threading.Thread(target=_zmq_robot, args=(number, site.frontends, stopping))
        for number in range(ROBOTS - 2)
    ]
    threads += [
        threading.Thread(target=_openpi_robot, args=(site.openpi_port, stopping)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def robot_name(number: int) -> tuple[str, str]:
    """What a robot calls itself, and the policy that it asks for."""
    policy = ("aloha", "droid")[number % 2]
    return f"{policy}-{number // 2:02d}", policy


def _zmq_robot(number: int, frontends: Sequence[str], stopping: threading.Event) -> None:
    name, policy = robot_name(number)
    with (
        ZmqPolicyClient(frontends, policy=policy, robot=name, timeout_s=5.0) as robot,
        contextlib.suppress(PolicyError),
    ):
        while not stopping.wait(1.0 / HZ):
            robot.infer({"state": np.zeros(14, np.float32), "prompt": "fold the towel"})


def _openpi_robot(port: int, stopping: threading.Event) -> None:
    """Speaks openpi's socket, with two cameras that show something."""
    from broker.gateway import arrays

    rows, columns = np.mgrid[0:224, 0:224]
    with connect(f"ws://127.0.0.1:{port}", max_size=None, compression=None) as socket:
        socket.recv()
        for step in itertools.count():
            if stopping.wait(1.0 / HZ):
                return
            wave = 127 + 120 * np.sin((rows + 6 * step) / 30.0) * np.cos(columns / 25.0)
            image = np.stack([wave, rows, columns], axis=-1).astype(np.uint8)
            observation = {
                "images": {"cam_high": image, "cam_wrist": image[::-1, :, ::-1].copy()},
                "state": np.sin(np.arange(14) + step / 10.0),
                "prompt": "hand the cube over",
            }
            with contextlib.suppress(OSError):
                socket.send(arrays.encode(observation))
                socket.recv()
