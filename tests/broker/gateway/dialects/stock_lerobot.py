"""A robot with LeRobot's own client: `python -m ... PORT KEY`; prints what happened as JSON.

Its package asks for many large ones, none of which the client's conversation needs: those are
stood in for by empty modules. What talks to the server is LeRobot's: `RobotClient`, its messages,
its stubs and its classes.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import sys
import threading
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

EMPTY = (
    *("datasets", "draccus", "lerobot.datasets", "lerobot.policies", "lerobot.robots"),
    *("lerobot.cameras", "lerobot.configs", "lerobot.utils.utils", "lerobot.utils.import_utils"),
)


class Anything:
    """A class that takes all arguments, and whose instances give back what they are called with."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, given: Any = None, *_: Any, **__: Any) -> Any:
        return given


class EmptyModule(ModuleType):
    """A module that has every name."""

    __path__: list[str] = []  # noqa: RUF012 - a package, as the import system wants it

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Anything,), {})


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the empty modules."""

    def find_spec(self, name: str, *_: Any) -> Any:
        is_ours = any(name == each or name.startswith(f"{each}.") for each in EMPTY)
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_ours else None

    def create_module(self, spec: Any) -> ModuleType:
        return EmptyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


sys.meta_path.insert(0, Finder())

from lerobot.async_inference import robot_client  # noqa: E402
from lerobot.async_inference.helpers import TimedObservation  # noqa: E402

NAMES = [f"joint_{number}.pos" for number in range(14)]
FEATURES = {
    "observation.state": {"dtype": "float32", "shape": (14,), "names": NAMES},
    "observation.images.top": {"dtype": "image", "shape": (480, 640, 3), "names": ["h", "w", "c"]},
}


def main() -> None:
    """One observation of 900 kB and its actions."""
    robot_client.make_robot_from_config = lambda _: SimpleNamespace(
        connect=lambda: None, disconnect=lambda: None
    )
    robot_client.map_robot_keys_to_lerobot_features = lambda _: FEATURES
    client = robot_client.RobotClient(
        SimpleNamespace(
            robot=None,
            server_address=f"127.0.0.1:{sys.argv[1]}",
            policy_type="pi0",
            pretrained_name_or_path=f"api-key:{sys.argv[2]}",
            actions_per_chunk=20,
            policy_device="cpu",
            client_device="cpu",
            environment_dt=1 / 30,
            chunk_size_threshold=0.5,
            fps=30,
            aggregate_fn=None,
        )
    )
    told: dict[str, Any] = {"started": client.start()}
    client.start_barrier = threading.Barrier(1)
    receiving = threading.Thread(target=client.receive_actions, daemon=True)
    receiving.start()
    joints = {name: float(number) for number, name in enumerate(NAMES)}
    raw = {**joints, "top": np.full((480, 640, 3), 7, np.uint8), "task": "fold"}
    told["sent"] = client.send_observation(TimedObservation(time.time(), 3, raw, must_go=True))
    until = time.monotonic() + 60
    while client.action_queue.empty() and time.monotonic() < until:
        time.sleep(0.01)
    actions = list(client.action_queue.queue)
    told["steps"] = [each.get_timestep() for each in actions]
    told["first"] = float(actions[0].get_action()[0])
    client.stop()
    receiving.join(10)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
