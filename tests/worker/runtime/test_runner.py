"""Batches, buckets and static buffers change nothing about any single answer."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.golden import FLOW_CHECKPOINTS, FOLDER, cases, overrides
from tests.worker.composition import compose_worker, make_policy
from worker.config import Dtype
from worker.device_name import Device
from worker.errors import DeviceLost
from worker.robots.transforms import ModelInput
from worker.runtime.runner import Actions, Runner, Shape, buckets

SETTINGS = {
    "plain": [],
    "graphs": ["runtime.graphs=true"],
    "graphs of one bucket": ["runtime.graphs=true", "runtime.prompt_buckets=1"],
}


def make_runner(*settings: str, checkpoint: str | None = None) -> Runner:
    """Float32 on the CPU; `checkpoint`: a golden one, or else seeded weights."""
    config = compose_worker(*(overrides(checkpoint) if checkpoint else []), *settings)
    weights = FOLDER / checkpoint / "model.safetensors" if checkpoint else None
    steps = config.num_steps
    return Runner(config.model, weights, Device.cpu, Dtype.float32, config.runtime, steps, 0)


@cache
def golden_requests(checkpoint: str) -> list[ModelInput]:
    """The golden observations, and one with a shorter prompt."""
    transforms = make_policy(*overrides(checkpoint)).transforms
    sent = [{**case.observation, "noise": case.noise} for case in cases(checkpoint)]
    return [transforms.inputs(each) for each in [*sent, {**sent[0], "prompt": "go"}]]


def one_by_one(runner: Runner, requests: Sequence[ModelInput]) -> list[Actions]:
    return [runner([request])[0] for request in requests]


@cache
def plain_answers(checkpoint: str) -> list[Actions]:
    """Those to `golden_requests`, one by one."""
    runner = make_runner("num_steps=3", checkpoint=checkpoint)
    return one_by_one(runner, golden_requests(checkpoint))


@pytest.mark.parametrize("checkpoint", FLOW_CHECKPOINTS)
@pytest.mark.parametrize("name", SETTINGS)
def test_batches_answer_as_singles_do(checkpoint: str, name: str) -> None:
    requests, single = golden_requests(checkpoint), plain_answers(checkpoint)
    runner = make_runner(*SETTINGS[name], "num_steps=3", checkpoint=checkpoint)
    for answers in (runner(requests), one_by_one(runner, requests), runner(requests[::-1])[::-1]):
        np.testing.assert_allclose(answers, single, atol=1e-5, rtol=0)


def test_batches_answer_as_singles_do_at_real_width() -> None:
    depths = [f"model.{part}.depth={n}" for part, n in (("vision", 1), ("vlm", 2), ("expert", 2))]
    # Most of the numbers are in the feed-forward layers, which gain nothing by their full width.
    sizes = [*depths, "model.vlm.mlp_dim=4096", "model.vocab_size=64", "num_steps=2"]
    runner = make_runner("env=aloha_sim", "model=pi0", *sizes, "model.action_horizon=10")
    numbers = np.random.default_rng(0)
    requests = [made_up(numbers, length) for length in (6, 6)]
    for one, other in zip(runner(requests), one_by_one(runner, requests), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4, rtol=0)


def made_up(numbers: np.random.Generator, length: int) -> ModelInput:
    """A request of one camera."""
    return ModelInput(
        images={"base_0_rgb": numbers.integers(0, 256, (224, 224, 3), dtype=np.uint8)},
        tokens=numbers.integers(0, 64, length),
        state=numbers.standard_normal(32),
        robot_state=np.zeros(14),
        noise=None,
        seed=length,
    )


def test_all_shapes_are_prepared_and_no_other_comes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    runner = make_runner(
        *("env=aloha_sim", "model=tiny", "num_steps=1"),
        *("runtime.graphs=true", "runtime.slots=2", "runtime.rtc=[]"),
    )
    runner.prepare(2, [1, 3], length=7)
    prepared = set(runner._replays)
    assert len(prepared) == 2 * 2 * (4 + 1)
    assert f"prepared {len(prepared)} of {len(prepared)} shapes" in caplog.text
    numbers = np.random.default_rng(0)
    runner([made_up(numbers, length) for length in (3, 40)])
    runner([made_up(numbers, 7)])
    assert set(runner._replays) == prepared


def test_the_usual_prompt_is_not_padded() -> None:
    runner = make_runner("env=aloha_sim", "model=tiny", "num_steps=1", "runtime.graphs=true")
    runner.prepare(1, [1], length=7)
    request = made_up(np.random.default_rng(0), 7)
    assert list(runner._groups([request])) == [Shape(1, 1, 7, padded=False)]
    longer = replace(request, tokens=np.zeros(8, np.int64))
    assert list(runner._groups([longer])) == [Shape(1, 1, 12, padded=True)]
    assert list(runner._groups([request, longer])) == [Shape(2, 1, 12, padded=True)]


def test_without_graphs_nothing_is_prepared_and_lengths_are_grouped() -> None:
    runner = make_runner("env=aloha_sim", "model=tiny", "num_steps=1")
    runner.prepare(2, [1], length=7)
    assert not runner._replays
    numbers = np.random.default_rng(0)
    requests = [made_up(numbers, length) for length in (5, 6, 5)]
    assert runner._groups(requests) == {
        Shape(2, 1, 5, padded=False): [0, 2],
        Shape(1, 1, 6, padded=False): [1],
    }
    assert runner([]) == []


def test_an_answer_is_not_overwritten_by_the_next() -> None:
    runner = make_runner("env=aloha_sim", "model=tiny", "num_steps=1", "runtime.graphs=true")
    numbers = np.random.default_rng(0)
    (first,) = runner([made_up(numbers, 7)])
    kept = first.copy()
    runner([made_up(numbers, 7)])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("longest", "count", "expected"),
    [(48, 4, [12, 24, 36, 48]), (200, 3, [67, 134, 200]), (2, 4, [1, 2]), (9, 1, [9])],
)
def test_buckets(longest: int, count: int, expected: list[int]) -> None:
    assert buckets(longest, count) == expected


def test_an_error_of_the_accelerator_loses_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make_runner("env=aloha_sim", "model=tiny", "num_steps=1")

    def broken(*_: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access\nmore")

    monkeypatch.setattr(runner, "_run", broken)
    with pytest.raises(DeviceLost, match=r"cpu failed .* illegal memory access$"):
        runner([made_up(np.random.default_rng(0), 7)])
