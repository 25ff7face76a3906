"""Guided flows: exact on a flow whose answer is known, and nothing for whoever follows nothing."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.golden import RTC_CHECKPOINTS
from tests.worker.runtime.forms import golden_model, inputs, noise
from worker.models.guidance import Guides, RowTimes, guidance_weight, guide
from worker.models.pi0 import flow_times

HORIZON, DIMS = 6, 2
TIMES = flow_times(10)


def guides(weight: float, given: int | None = None, limit: float = 10.0) -> Guides:
    previous = torch.arange(HORIZON * DIMS, dtype=torch.float32).view(1, HORIZON, DIMS) / 10
    mask = None if given is None else (torch.arange(HORIZON) < given)[None]
    return Guides(previous, torch.full((1, HORIZON), weight), torch.tensor([limit]), mask)


def to_zero(step: int, noisy: Tensor) -> Tensor:
    """The exact flow of data that are all zero: x = t * noise."""
    return noisy / TIMES[step]


def start() -> Tensor:
    return torch.randn((1, HORIZON, DIMS), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("time", "expected"), [(0.5, 2.0), (0.1, 0.82 / 0.09), (0.9, 0.82 / 0.09)])
def test_the_weight_is_the_papers(time: float, expected: float) -> None:
    assert guidance_weight(time) == pytest.approx(expected)
    tau = 1.0 - time
    r_squared = (1 - tau) ** 2 / (tau**2 + (1 - tau) ** 2)
    assert guidance_weight(time) == pytest.approx((1 - tau) / (tau * r_squared))


def test_at_the_noise_only_the_limit_holds() -> None:
    assert guidance_weight(1.0) == float("inf")
    error = torch.ones(1, HORIZON, DIMS)
    assert torch.equal(guides(1.0, limit=5.0).correction(1.0, error), 5.0 * error)


@pytest.mark.parametrize("by_gradient", [False, True])
def test_without_weight_the_flow_is_the_plain_one(by_gradient: bool) -> None:
    plain = start()
    for step in range(len(TIMES)):
        plain = torch.sub(plain, to_zero(step, plain), alpha=1 / len(TIMES))
    free = guide(to_zero, start(), TIMES, guides(0.0), by_gradient)
    assert torch.equal(free, plain)


def test_a_pull_brings_the_chunk_towards_the_leftover() -> None:
    given = guides(1.0)
    pulled = guide(to_zero, start(), TIMES, given, by_gradient=False)
    assert (pulled - given.previous).abs().max() < (given.previous).abs().max() * 0.9


def test_the_gradient_goes_through_the_flow() -> None:
    """Where the clean chunk does not depend on x, nothing can be pulled through its Jacobian."""
    free = guide(to_zero, start(), TIMES, guides(0.0), by_gradient=True)
    pulled = guide(to_zero, start(), TIMES, guides(1.0), by_gradient=True)
    torch.testing.assert_close(pulled, free, atol=1e-5, rtol=0)


def test_a_gradient_is_taken_without_anyone_asking_for_gradients() -> None:
    with torch.no_grad():
        pulled = guide(lambda step, x: 0.5 * x, start(), TIMES, guides(1.0), by_gradient=True)
    assert not pulled.requires_grad


def test_given_rows_come_out_as_they_are_and_were_never_noise() -> None:
    seen = []

    def velocity(step: int, noisy: Tensor) -> Tensor:
        seen.append(noisy[0, :2].clone())
        return torch.ones_like(noisy)

    given = guides(0.0, given=2)
    out = guide(velocity, start(), TIMES, given, by_gradient=False)
    assert torch.equal(out[0, :2], given.previous[0, :2])
    assert all(torch.equal(rows, given.previous[0, :2]) for rows in seen)
    assert not torch.equal(out[0, 2:], given.previous[0, 2:])


@pytest.mark.parametrize("checkpoint", RTC_CHECKPOINTS)
def test_rows_at_time_zero_change_what_the_others_see(checkpoint: str) -> None:
    model = golden_model(checkpoint)
    horizon = model.config.action_horizon
    with torch.no_grad():
        cache, noisy = model.prefix(*inputs(2)), noise(2, horizon)
        clean, step = model.flow_step(0.0), model.flow_step(0.5)
        rows = RowTimes(clean, [step])
        nobody = torch.zeros((2, horizon), dtype=torch.bool)
        some = nobody.clone()
        some[1, :3] = True
        plain = model.velocity(noisy, cache, step)
        free = model.velocity(noisy, cache, rows.at(0, nobody))
        mixed = model.velocity(noisy, cache, rows.at(0, some))
        whole = model.velocity(noisy, cache, rows.at(0, ~nobody))
    torch.testing.assert_close(free, plain, atol=1e-6, rtol=0)
    torch.testing.assert_close(mixed[0], plain[0], atol=1e-6, rtol=0)
    assert (mixed[1] - plain[1]).abs().max() > 1e-3
    at_zero = model.velocity(noisy, cache, clean)
    torch.testing.assert_close(whole, at_zero, atol=1e-6, rtol=0)


def test_flow_times_are_summed_in_float32() -> None:
    assert flow_times(4) == [1.0, 0.75, 0.5, 0.25]
    tenths = np.float32(1.0) + np.float32(-0.1) + np.float32(-0.1)
    assert flow_times(10)[2] == float(tenths)
