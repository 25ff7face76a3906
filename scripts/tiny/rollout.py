"""One episode of a policy in the simulator, under the condition that an evaluation asks for."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from scripts.tiny.scene import EPISODE_STEPS, SUCCESS, TASKS, TRANSFER, Scene


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

    @property
    def server_settings(self) -> list[str]:
        """Keys of `python -m worker` that this condition needs."""
        return [f"num_steps={self.num_steps}", f"dtype={self.dtype}"]


CONDITIONS = {
    condition.name: condition
    for condition in (
        Condition("25 actions"),
        Condition("50 actions", actions_per_chunk=50),
        Condition("10 actions", actions_per_chunk=10),
        Condition("10 actions, same noise", actions_per_chunk=10, same_noise=True),
        Condition("5 steps", num_steps=5),
        Condition("3 steps", num_steps=3),
        Condition("1 step", num_steps=1),
        Condition("bfloat16", dtype="bfloat16"),
        Condition("JPEG 95", jpeg_quality=95),
        Condition("JPEG 90", jpeg_quality=90),
        Condition("JPEG 75", jpeg_quality=75),
        Condition("JPEG 50", jpeg_quality=50),
        Condition("black images", black=True),
        Condition("wrong prompt", wrong_prompt=True),
    )
}


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


def observe(scene: Scene, condition: Condition, step: int, seed: int) -> dict[str, Any]:
    """What the robot sends: state, image (3, 224, 224) uint8, prompt, and the noise's seed."""
    picture = scene.small_picture()
    if condition.black:
        picture = np.zeros_like(picture)
    if condition.jpeg_quality is not None:
        picture = through_jpeg(picture, condition.jpeg_quality)
    others = [task for task in TASKS.values() if task is not scene.task]
    asked = others[0] if condition.wrong_prompt else scene.task
    return {
        "state": scene.state(),
        "images": {"cam_high": np.ascontiguousarray(np.moveaxis(picture, -1, 0))},
        "prompt": asked.prompt,
        "seed": 0 if condition.same_noise else EPISODE_STEPS * seed + step,
    }


def through_jpeg(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """`picture` (H, W, 3) as it arrives after JPEG of `quality`, 0 to 100."""
    with io.BytesIO() as file:
        Image.fromarray(picture).save(file, "JPEG", quality=quality)
        return np.asarray(Image.open(file).convert("RGB"))


def roll_out(scene: Scene, policy: Policy, condition: Condition, seed: int) -> Outcome:
    """A whole episode from the start that `seed` decides.

    Raises:
        client.errors.PolicyError: an inference failed.
    """
    scene.reset(seed)
    best, first, chunk = 0, None, np.empty((0, 0))
    for step in range(EPISODE_STEPS):
        if step % condition.actions_per_chunk == 0:
            chunk = policy.infer(observe(scene, condition, step, seed))["actions"]
        reward = scene.step(chunk[step % condition.actions_per_chunk])
        if reward == SUCCESS and first is None:
            first = step
        best = max(best, reward)
    let_go = scene.task is TRANSFER and scene.let_go()
    return Outcome(scene.task.name, condition.name, seed, best, first, let_go)
