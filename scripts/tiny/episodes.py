"""Demonstrations: what an expert does in one episode, and files that hold some frames of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from scripts.tiny.expert import CAREFUL, STEPS, Expert, Unreachable
from scripts.tiny.scene import EPISODE_STEPS, SUCCESS, TRANSFER, Scene

Array = NDArray[np.float64]
Float32 = NDArray[np.float32]

FIRST_TRAINING_SEED = 1_000_000
"""Seeds below are held out, for evaluations."""
ARM_JOINTS = np.array([*range(6), *range(7, 13)])

_LARGEST_NOISE = 0.05  # rad
_NOISE_PERIOD = 25  # control steps between the knots of the noise
_CARE = 0.15  # what is left of the noise where a plan must be exact
_CARE_MARGIN = 8  # control steps over which it is taken back
_LAST_FRAME = 285
_APPROACH = 18  # control steps before the meeting


@dataclass(frozen=True)
class Meeting:
    """How an episode differs from the usual ones where hands or objects meet."""

    frames: int = 0
    """So many more are taken there."""
    noise: float = _CARE
    """The share of the noise on the commands that is left there, 0 to 1."""


USUAL = Meeting()


@dataclass(frozen=True)
class Demonstration:
    """Frames of one episode; of a failed one there are none."""

    steps: NDArray[np.int64]
    """At which control steps the frames were taken, (n,)."""
    images: NDArray[np.uint8]
    """The top camera as a client sends it, (n, 224, 224, 3)."""
    states: Float32
    """Joints, (n, 14), in the robot's convention."""
    objects: Float32
    """Where the objects were, in metres, (n, objects, 3)."""
    plan: Float32
    """What the expert would have done without noise, (STEPS, 14)."""

    def save(self, path: Path) -> None:
        """Write an .npz file, whole or not at all."""
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            np.savez_compressed(file, **{f.name: getattr(self, f.name) for f in fields(self)})
        unfinished.rename(path)

    @staticmethod
    def load(path: Path) -> Demonstration:
        """Read what `save` wrote."""
        with np.load(path) as file:
            return Demonstration(**{f.name: file[f.name] for f in fields(Demonstration)})


def demonstrate(scene: Scene, expert: Expert, seed: int, meeting: Meeting = USUAL) -> Demonstration:
    """One episode with noise on the commands; the same for the same seed, on one machine."""
    random = np.random.default_rng([seed, scene.task.objects])
    scene.reset(seed)
    try:
        plan = expert.plan(scene.places())
    except Unreachable:
        return _demonstration(scene, [], np.zeros((STEPS, 14)))
    commands = plan + command_noise(random, scene.task.name, meeting.noise)
    chosen = frame_steps(random, scene.task.name, meeting.frames)
    frames, reward = [], 0
    for step in range(EPISODE_STEPS):
        if step in chosen:
            frames.append((step, scene.small_picture(), scene.state(), scene.places()))
        reward = max(reward, scene.step(commands[min(step, STEPS - 1)]))
    succeeded = scene.let_go() if scene.task is TRANSFER else reward == SUCCESS
    return _demonstration(scene, frames if succeeded else [], plan)


def command_noise(random: np.random.Generator, task: str, at_meeting: float = USUAL.noise) -> Array:
    """Smooth and of an episode's own size, less where the plan must be exact: (STEPS, 14) rad.

    `at_meeting`: what is left of it while the hands meet.
    """
    knots = np.arange(0, STEPS + _NOISE_PERIOD, _NOISE_PERIOD)
    values = random.standard_normal((len(knots), len(ARM_JOINTS)))
    values[0] = 0.0
    size = random.uniform(0.0, _LARGEST_NOISE)
    noise = np.zeros((STEPS, 14))
    times = np.arange(STEPS)
    noise[:, ARM_JOINTS] = size * CubicSpline(knots, values)(times)
    for (first, last), care in zip(CAREFUL[task], (_CARE, at_meeting), strict=True):
        outside = np.maximum(np.maximum(first - times, times - last), 0)
        noise *= np.clip(care + (1 - care) * outside / _CARE_MARGIN, 0.0, 1.0)[:, None]
    return noise


def frame_steps(random: np.random.Generator, task: str, at_meeting: int = USUAL.frames) -> set[int]:
    """When to take frames: at the start, evenly over the episode, and more where care is needed.

    `at_meeting`: so many more are spread over the meeting and the approach to it.
    """
    edges = np.linspace(1, _LAST_FRAME, 5)
    chosen = {0} | {int(random.uniform(a, b)) for a, b in pairwise(edges)}
    for first, last in CAREFUL[task]:
        middle = (first + last) / 2
        chosen |= {int(random.uniform(first - 5, middle)), int(random.uniform(middle, last + 5))}
    first, last = CAREFUL[task][1]
    edges = np.linspace(first - _APPROACH, last, at_meeting + 1)
    return chosen | {int(random.uniform(a, b)) for a, b in pairwise(edges)}


def _demonstration(scene: Scene, frames: list[Any], plan: Array) -> Demonstration:
    steps, images, states, objects = zip(*frames, strict=True) if frames else ([], [], [], [])
    return Demonstration(
        np.array(steps, np.int64),
        np.array(images, np.uint8).reshape(-1, 224, 224, 3),
        np.array(states, np.float32).reshape(-1, 14),
        np.array(objects, np.float32).reshape(-1, scene.task.objects, 3),
        plan.astype(np.float32),
    )
