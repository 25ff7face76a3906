"""The policies that are compared: the scripted expert, and the trained tiny model that ships."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from benchmarks.closed_loop.expert_policy import ExpertPolicy
from benchmarks.closed_loop.links import DELAYS_MS, JITTERED_MS, Link, all_links
from client.chunk_schedule import Request
from conf.compose import compose
from scripts.tiny.scene import CONTROL_PERIOD_S, EPISODE_STEPS, Scene
from scripts.tiny.trial import CONDITIONS, observe
from worker.__main__ import build
from worker.config import WorkerConfig

EXPERT_ACTIONS = 290
"""Executed in an episode of the expert, whose plan has 270."""
HELD_OUT_SEED = 1000
"""From here on the tiny model is evaluated: nothing about it was chosen by these starts."""
TINY = ("env=aloha_sim", "model=tiny", "runtime.threads=1")
TINY_DELAYS_MS = (0, 100, 200, 400)
TINY_JITTERED_MS = (200,)

Observe = Callable[[Request], dict[str, Any]]


class Policy(Protocol):
    """Takes an observation with the leftover's fields in it."""

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Answer with `actions`."""


@dataclass(frozen=True)
class Setup:
    """A policy, what it is told of a scene, and over which links it is compared."""

    name: str
    policy: Policy
    digest: str
    """Of everything that decides what the policy answers."""
    observer: Callable[[Scene, int], Observe]
    """Makes what looks at a scene that was just reset with a seed."""
    most_actions: int
    """Executed in an episode."""
    first_seed: int
    links: Sequence[Link]


def expert(noise_rad: float) -> Setup:
    """The scripted expert, whose chunks have an error of `noise_rad`.

    Raises:
        ValueError: `noise_rad` is not more than 0.
    """
    policy, links = ExpertPolicy(noise_rad), all_links(DELAYS_MS, JITTERED_MS)
    return Setup("expert", policy, policy.digest, expert_observer, EXPERT_ACTIONS, 0, links)


def tiny() -> Setup:
    """The tiny model with the weights that ship, in this process.

    Raises:
        worker.errors.WorkerError: it cannot be served.
    """
    policy: Any = build(compose("worker", WorkerConfig, TINY))
    policy.load()
    links = all_links(TINY_DELAYS_MS, TINY_JITTERED_MS)
    digest = policy.metadata["digest"]
    return Setup("tiny", policy, digest, camera_observer, EPISODE_STEPS, HELD_OUT_SEED, links)


def expert_observer(scene: Scene, seed: int) -> Observe:
    """Tells where the cube lay at first, and how far the plan has come; takes no picture."""
    places, count = scene.places(), 0

    def look(request: Request) -> dict[str, Any]:
        nonlocal count
        count += 1
        return {
            "places": places,
            "progress": request.position,
            "seed": [seed, count],
            **request.options,
        }

    return look


def camera_observer(scene: Scene, seed: int) -> Observe:
    """Tells what a robot sees and feels now, as `scripts.tiny.evaluate` does."""

    def look(request: Request) -> dict[str, Any]:
        step = round(request.observed_at / CONTROL_PERIOD_S)
        return {**observe(scene, CONDITIONS["25 actions"], step, seed), **request.options}

    return look
