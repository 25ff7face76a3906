"""A robot's program as openpi's users have it, with our client where theirs was.

Runs in openpi's environment: `python -m tests.e2e.openpi_robot PORT`; prints what happened as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
from openpi_client import action_chunk_broker, image_tools
from openpi_client.runtime import environment, runtime, subscriber
from openpi_client.runtime.agents import policy_agent

import client.image_tools
from client import ActionChunkBroker, AsyncActionChunkBroker, ZmqPolicyClient

STEPS, HORIZON, EPISODES = 25, 10, 2
SIZES = ((480, 640), (640, 480), (100, 50), (225, 224), (7, 300), (224, 224))


class Counting(environment.Environment):  # type: ignore[misc] # openpi-client has no types
    """Observes the number of the step, and keeps the actions."""

    def __init__(self) -> None:
        self.episodes: list[list[float]] = []

    def reset(self) -> None:
        """Begin an episode."""
        self.episodes.append([])

    def is_episode_complete(self) -> bool:
        """After STEPS steps."""
        return len(self.episodes[-1]) >= STEPS

    def get_observation(self) -> dict[str, Any]:
        """`state` (14), full of the number of the step."""
        return {"state": np.full(14, len(self.episodes[-1]), np.float32), "prompt": "count"}

    def apply_action(self, action: dict[str, Any]) -> None:
        """Take an action, which must be a single one."""
        (value,) = set(action["actions"].tolist())
        self.episodes[-1].append(value)


class Recorder(subscriber.Subscriber):  # type: ignore[misc] # openpi-client has no types
    """Keeps which fields results had."""

    def __init__(self) -> None:
        self.fields: set[str] = set()
        self.shapes: set[tuple[int, ...]] = set()

    def on_episode_start(self) -> None:
        """Nothing to do."""

    def on_step(self, observation: dict[str, Any], action: dict[str, Any]) -> None:
        """Note the fields and the shape of the action."""
        self.fields |= set(action)
        self.shapes.add(action["actions"].shape)

    def on_episode_end(self) -> None:
        """Nothing to do."""


def drive(port: int, broker_class: Any) -> dict[str, Any]:
    """Run openpi's runtime over a chunk broker and our client."""
    robot, recorder = Counting(), Recorder()
    with ZmqPolicyClient("127.0.0.1", port, policy="echo") as policy:
        broker = broker_class(policy, HORIZON)
        agent = policy_agent.PolicyAgent(broker)
        runtime.Runtime(robot, agent, [recorder], num_episodes=EPISODES).run()
        if isinstance(broker, AsyncActionChunkBroker):
            broker.close()
        metadata = policy.get_server_metadata()
    return {
        "episodes": robot.episodes[:EPISODES],  # the runtime resets once more at the end
        "fields": sorted(recorder.fields),
        "shapes": sorted(recorder.shapes),
        "metadata": metadata,
    }


def overlapping(policy: Any, horizon: int) -> AsyncActionChunkBroker:
    """Our broker that asks in the background."""
    return AsyncActionChunkBroker(policy, control_hz=50, action_horizon=horizon)


def images_differ() -> list[str]:
    """The cases in which our image tools and theirs do not agree to the last bit."""
    rng = np.random.default_rng(0)
    wrong = []
    for size in SIZES:
        for shape in ((*size, 3), (2, *size, 3)):
            floats = rng.random(shape).astype(np.float32)
            ours, theirs = (tools.convert_to_uint8(floats) for tools in TOOLS)
            resized = [tools.resize_with_pad(ours, 224, 224) for tools in TOOLS]
            if not (np.array_equal(ours, theirs) and np.array_equal(*resized)):
                wrong.append(str(shape))
    return wrong


TOOLS: tuple[Any, Any] = (client.image_tools, image_tools)


if __name__ == "__main__":
    port = int(sys.argv[1])
    report = {
        "numpy": np.__version__,
        "steps": STEPS,
        "horizon": HORIZON,
        "theirs": drive(port, action_chunk_broker.ActionChunkBroker),
        "ours": drive(port, ActionChunkBroker),
        "overlapping": drive(port, overlapping),
        "images": images_differ(),
    }
    print(json.dumps(report))
