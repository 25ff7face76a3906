"""Policies that do what a test needs them to, served by `python -m worker policy={_target_: ...}`.

Processes tell each other what happened by files in a folder that the test gives.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from client.errors import BadObservation
from worker.errors import DeviceLost

POLL_S = 0.01
OPEN = "open"  # the file that ends all waiting


class Gate:
    """Waits inside every inference until the test opens the gate; says who waits."""

    def __init__(self, folder: str, digest: str = "gate", horizon: int = 5) -> None:
        self.digest = digest
        self.metadata = {"action_horizon": horizon}
        self._folder, self._horizon = Path(folder), horizon

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """`tag` as it came, and `worker`, this process's id."""
        (self._folder / f"{os.getpid()}.inside").touch()
        _wait_for(self._folder / OPEN)
        actions = np.zeros((self._horizon, 2))
        return {"actions": actions, "tag": observation.get("tag"), "worker": os.getpid()}


class SlowToLoad(Gate):
    """Loads until the test opens the gate."""

    def load(self) -> None:
        """Wait."""
        _wait_for(self._folder / OPEN)


class Faulty:
    """Fails in the way that the observation asks for."""

    def infer(self, observation: dict[str, Any]) -> Any:
        """Answers that no robot should get, and errors that it should."""
        fault = observation.get("fault")
        if fault == "bad observation":
            raise BadObservation("state: 14 numbers are expected, 13 came")
        if fault == "long":
            raise BadObservation("ü" * 10_000)
        if fault == "exit":
            sys.exit(1)
        answers = {
            "nothing": None,
            "list": [1, 2],
            "no actions": {"action": 1},
            "object": {"actions": np.zeros(2, object)},
        }
        if fault in answers:
            return answers[fault]
        if fault is not None:
            raise RuntimeError(f"no such joint\n{fault}")
        return {"actions": np.zeros((5, 2)), "seed": observation["seed"]}


class Obedient:
    """Answers with the actions that the observation has."""

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """As `wanted`, (horizon, action dim)."""
        return {"actions": observation["wanted"]}


class FragileDevice(Gate):
    """The first of several that infers loses its device; `lost` then holds its process id."""

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """As `Gate`, for all but the first."""
        try:
            with (self._folder / "lost").open("x") as file:
                file.write(str(os.getpid()))
        except FileExistsError:
            return super().infer(observation)
        raise DeviceLost("CUDA error: an illegal memory access was encountered")


class Mirror:
    """Answers with what it saw, and can take compressed images as `image` and `images/chw`."""

    digest = "mirror"
    image_layouts = {("image",): "hwc", ("images", "chw"): "chw"}  # noqa: RUF012 - read only
    reads_only = True

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """`seen` as it came but for the seed, and `worker`, this process's id."""
        seen = {key: value for key, value in observation.items() if key != "seed"}
        return {"actions": np.zeros((5, 2)), "seen": seen, "worker": os.getpid()}


class Unsendable:
    """Says of itself what cannot be said."""

    metadata = {"robot": object()}  # noqa: RUF012 - read only

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Never called."""
        raise NotImplementedError


class Broken:
    """Cannot be loaded."""

    def load(self) -> None:
        """Fail."""
        raise RuntimeError("the weights are of another model")

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Never called."""
        raise NotImplementedError


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(POLL_S)
