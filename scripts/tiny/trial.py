"""One episode of a policy in the simulator, under the condition that an evaluation asks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

import numpy as np

from scripts.tiny.scene import EPISODE_STEPS, POLICY_PIXELS, SUCCESS, TASKS, TRANSFER, Scene


class Fault(StrEnum):
    """What happens to the servers in the middle of an episode."""

    worker_dies = "worker dies"
    broker_restarts = "broker restarts"


FAULT_STEP = 175
"""The request at or after this control step is disturbed: the hands are about to meet."""


@dataclass(frozen=True)
class Condition:
    """What is varied. The defaults are a robot's usual ones."""

    name: str
    actions_per_chunk: int = 25
    """Carried out of each chunk of 50 before the next is asked for."""
    num_steps: int = 10
    """Flow steps of the model."""
    dtype: str = "auto"
    """What the model computes in."""
    jpeg_quality: int | None = None
    """Of the picture as it travels; None: it travels as it is."""
    black: bool = False
    """Whether the picture is all black: what a policy does that doesn't look."""
    wrong_prompt: bool = False
    """Whether the other task is asked for."""
    same_noise: bool = False
    """Whether every chunk flows from the same noise; by default each has its own."""
    batch: int = 1
    """So many robots ask one worker at once, which answers up to so many together."""
    fault: Fault | None = None
    """What happens to the servers in each episode."""
    control_steps: int = EPISODE_STEPS
    """Of an episode."""
    episodes: int = 60
    """Where nobody says how many."""

    @property
    def server_settings(self) -> list[str]:
        """Keys of `python -m worker` that this condition needs."""
        settings = [f"num_steps={self.num_steps}", f"dtype={self.dtype}"]
        if self.batch > 1:
            settings += [f"runtime.slots={self.batch}", f"runtime.batch_wait_s={BATCH_WAIT_S}"]
        return settings

    @property
    def needs_own_servers(self) -> bool:
        """Whether servers that somebody else has started cannot be used for it."""
        usual = Condition(self.name)
        return self.fault is not None or self.server_settings != usual.server_settings


BATCH_WAIT_S = 0.5
"""Long enough for all robots to ask, who simulate and render in between."""

CONDITIONS = {
    condition.name: condition
    for condition in (
        Condition("50 actions", actions_per_chunk=50, episodes=100),
        Condition("25 actions", episodes=100),
        Condition("10 actions", actions_per_chunk=10, episodes=100),
        Condition("3 steps", num_steps=3),
        Condition("worker dies", fault=Fault.worker_dies),
        Condition("broker restarts", fault=Fault.broker_restarts),
        Condition("JPEG 90", jpeg_quality=90),
        Condition("black images", black=True),
        Condition("wrong prompt", wrong_prompt=True),
        Condition("batches of 4", batch=4),
        Condition("bfloat16", dtype="bfloat16"),
        Condition("float32", dtype="float32"),
        Condition("5 steps", num_steps=5),
        Condition("1 step", num_steps=1),
        Condition("JPEG 95", jpeg_quality=95),
        Condition("JPEG 75", jpeg_quality=75),
        Condition("JPEG 50", jpeg_quality=50),
        Condition("10 actions, same noise", actions_per_chunk=10, same_noise=True),
    )
}
"""The rows of the table, those that matter most first."""


class Policy(Protocol):
    """Anything that answers an observation with `actions`."""

    def infer(self, obs: dict[str, Any]) -> dict[str, Any]:
        """Answer an observation with `actions`."""


@dataclass(frozen=True)
class Outcome:
    """What an episode came to."""

    task: str
    condition: str
    seed: int
    reward: int
    """The best of all steps; 4 is success."""
    first_success: int | None
    """Control step of the first success."""
    let_go: bool
    """Whether at the end the left gripper alone holds the cube off the table (transfer only)."""
    model_ms: list[float]
    """The model's time for each request, in milliseconds; requests of one batch have the same."""


def observe(scene: Scene, condition: Condition, step: int, seed: int) -> dict[str, Any]:
    """What the robot sends: state, image (3, 224, 224) uint8, prompt, and the noise's seed."""
    black = np.zeros((POLICY_PIXELS, POLICY_PIXELS, 3), np.uint8)
    picture = black if condition.black else scene.small_picture()
    others = [task for task in TASKS.values() if task is not scene.task]
    asked = others[0] if condition.wrong_prompt else scene.task
    return {
        "state": scene.state(),
        "images": {"cam_high": np.ascontiguousarray(np.moveaxis(picture, -1, 0))},
        "prompt": asked.prompt,
        "seed": 0 if condition.same_noise else EPISODE_STEPS * seed + step,
    }


def roll_out(
    scene: Scene,
    policy: Policy,
    condition: Condition,
    seed: int,
    before_request: Callable[[int], None] | None = None,
) -> Outcome:
    """A whole episode from the start that `seed` decides.

    `before_request` is called with the control step before each request.

    Raises:
        client.errors.PolicyError: an inference failed.
    """
    scene.reset(seed)
    best, first, chunk = 0, None, np.empty((0, 0))
    model_ms: list[float] = []
    for step in range(condition.control_steps):
        if step % condition.actions_per_chunk == 0:
            observation = observe(scene, condition, step, seed)
            if before_request is not None:
                before_request(step)
            answer = policy.infer(observation)
            chunk = answer["actions"]
            model_ms.append(answer.get("policy_timing", {}).get("model_ms", 0.0))
        reward = scene.step(chunk[step % condition.actions_per_chunk])
        if reward == SUCCESS and first is None:
            first = step
        best = max(best, reward)
    let_go = scene.task is TRANSFER and scene.let_go()
    return Outcome(scene.task.name, condition.name, seed, best, first, let_go, model_ms)
