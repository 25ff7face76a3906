"""What the model's benchmark times: made-up requests, and each model's stages one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.model.floor import Clock, Load, times_s
from conf.compose import compose
from worker.__main__ import build
from worker.config import WorkerConfig
from worker.models.fast import MAX_WRITTEN, Writing
from worker.policies.pi0 import Pi0Policy
from worker.robots.robot import CAMERAS
from worker.robots.transforms import ModelInput
from worker.runtime.fast_runner import FastRunner
from worker.runtime.runner import Runner

CAMERA_SIZE = (480, 640)
ANSWER_TOKENS = 40
"""Tokens of one pi0-FAST answer; the golden ones have 31 to 44."""

Stages = dict[str, Callable[[], Any]]


def transforms_s(times: int, clock: Clock) -> list[float]:
    """Seconds of all that happens to one observation and its answer before and after the model.

    Raises:
        TypeError: `model=tiny` is served by another class.
    """
    policy = build(compose("worker", WorkerConfig, ["env=aloha", "model=tiny"]))
    if not isinstance(policy, Pi0Policy):
        raise TypeError("model=tiny is served by Pi0Policy")
    numbers = np.random.default_rng(0)
    names = ("cam_high", "cam_left_wrist", "cam_right_wrist")
    images = {n: numbers.integers(0, 256, (3, *CAMERA_SIZE), dtype=np.uint8) for n in names}
    sent = {"state": np.zeros(14), "images": images, "prompt": "fold the towel"}
    raw = numbers.standard_normal((50, 32), dtype=np.float32)

    def run() -> None:
        policy.transforms.outputs(raw, policy.transforms.inputs(sent))

    return times_s(run, torch.device("cpu"), times, clock)


def requests(config: WorkerConfig, load: Load) -> list[ModelInput]:
    """A batch of them, made up."""
    numbers = np.random.default_rng(0)
    return [
        ModelInput(
            images={
                camera: numbers.integers(0, 256, (224, 224, 3), dtype=np.uint8)
                for camera in CAMERAS[: load.cameras]
            },
            tokens=numbers.integers(2, config.model.vocab_size, load.prompt),
            state=numbers.standard_normal(config.model.action_dim),
            robot_state=np.zeros(14),
            noise=None,
            seed=index,
        )
        for index in range(load.batch)
    ]


def flow_stages(runner: Runner, given: list[ModelInput], steps: int) -> Stages:
    """Of pi0 and pi0.5; the last is all of it together, as a worker runs it."""
    model = runner.model
    arrays = runner.tensors(given)
    images, tokens, state, noise = (arrays[k] for k in ("images", "tokens", "state", "noise"))
    with torch.no_grad():
        embedded = model.embed_prefix(images, tokens)
        cache = model.prefix(images, tokens, state)
        table = model.flow_steps(steps)

    def prefix() -> None:
        past = model.vlm.extend(embedded)
        if not model.pi05:
            model.expert.extend(model.embed_state(state).to(model.dtype), past)

    return {
        "vision": lambda: model.vision(images.flatten(0, 1)),
        "prefix": prefix,
        "denoising": lambda: model.sample(cache, noise, table),
        "whole": lambda: runner(given),
    }


@torch.inference_mode()
def fast_stages(runner: FastRunner, given: list[ModelInput]) -> Stages:
    """Of pi0-FAST; `whole` is an answer of `ANSWER_TOKENS`, as made-up weights never end one."""
    model, device = runner.model, runner.device
    writing, step = runner.prepare(len(given))
    images = [torch.from_numpy(np.stack(list(g.images.values()))).to(device) for g in given]
    tokens = [torch.from_numpy(g.tokens).to(device) for g in given]
    embedded = [model.embed_prefix(i[None], t[None]) for i, t in zip(images, tokens, strict=True)]

    @torch.inference_mode()
    def see() -> None:
        for each in images:
            model.vision(each)

    @torch.inference_mode()
    def read() -> None:
        for row, x in enumerate(embedded):
            model.read_embedded(x, writing, row)

    @torch.inference_mode()
    def token() -> None:
        writing.count.fill_(MAX_WRITTEN // 2)
        step()

    return {"vision": see, "prefix": read, "token": token, "whole": lambda: answer(runner, given)}


@torch.inference_mode()
def answer(runner: FastRunner, given: list[ModelInput]) -> Writing:
    """Read all and write `ANSWER_TOKENS`, wherever an answer would end."""
    writing, step = runner.prepare(len(given))
    runner.read_all(given, writing)
    for _ in range(1, ANSWER_TOKENS):
        step()
    return writing
