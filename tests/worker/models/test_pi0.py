"""What the model promises beyond its agreement with the public one."""

import numpy as np
import pytest
import torch

from tests.golden import FLOW_CHECKPOINTS, FOLDER, overrides
from tests.worker.composition import model_config
from worker.models.gemma import RMSNorm
from worker.models.pi0 import Pi0, embed_time
from worker.runtime.loading import load_model

DIMS = (2, 50, 32)


@pytest.fixture(scope="module", params=["pi0_aloha", "pi05_libero"])
def model(request: pytest.FixtureRequest) -> Pi0:
    config = model_config(*overrides(request.param))
    path = FOLDER / request.param / "model.safetensors"
    return load_model(config, path, torch.device("cpu"), torch.float32)


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    numbers = np.random.default_rng(0)
    images = numbers.integers(0, 256, (batch, 2, 224, 224, 3), dtype=np.uint8)
    tokens = numbers.integers(0, 1240, (batch, 6))
    state = numbers.standard_normal((batch, 32), dtype=np.float32)
    return torch.from_numpy(images), torch.from_numpy(tokens), torch.from_numpy(state)


def test_requests_in_a_batch_do_not_touch_each_other(model: Pi0) -> None:
    together, noise = inputs(2), torch.randn(DIMS, generator=torch.Generator().manual_seed(0))
    steps = model.flow_steps(3)
    both = model.sample(model.prefix(*together), noise, steps)
    for index in range(2):
        alone = model.prefix(*(t[index : index + 1] for t in together))
        one = model.sample(alone, noise[index : index + 1], steps)
        torch.testing.assert_close(both[index : index + 1], one, atol=1e-4, rtol=0)


def test_a_flow_step_has_a_gradient_in_the_noisy_actions(model: Pi0) -> None:
    noisy = torch.zeros((1, 5, 32), dtype=torch.float32, requires_grad=True)
    cache, step = model.prefix(*inputs(1)), model.flow_step(0.5)
    (gradient,) = torch.autograd.grad(model.velocity(noisy, cache, step)[0, 2, 3], noisy)
    nudge = torch.zeros_like(noisy)
    nudge[0, 1, 4] = 1e-2
    with torch.no_grad():
        ahead, behind = (model.velocity(noisy + s * nudge, cache, step) for s in (1, -1))
    slope = (ahead - behind)[0, 2, 3] / 2e-2
    assert slope.item() == pytest.approx(gradient[0, 1, 4].item(), abs=2e-3)
    assert gradient.abs().max() > 1e-3


def test_pi0_actions_follow_the_state_and_pi05_has_no_state_token(model: Pi0) -> None:
    images, tokens, state = inputs(1)
    caches = [model.prefix(images, tokens, s) for s in (state, state + 1)]
    assert caches[0].length == 2 * 256 + 6 + (0 if model.pi05 else 1)
    noise = torch.zeros(1, 5, 32)
    one, other = (model.sample(c, noise, model.flow_steps(1)) for c in caches)
    assert torch.equal(one, other) is model.pi05


def test_only_images_of_the_trained_size_are_taken(model: Pi0) -> None:
    with pytest.raises(ValueError, match="224"):
        model.vision(torch.zeros(1, 112, 112, 3, dtype=torch.uint8))


def test_a_plain_norm_has_no_modulation() -> None:
    with pytest.raises(ValueError, match="not adaptive"):
        RMSNorm(4, adaptive=False).modulation(torch.zeros(4), torch.float32)


def test_time_embedding_is_sines_then_cosines() -> None:
    embedded = embed_time(0.0, 8)
    assert embedded.tolist() == [0.0] * 4 + [1.0] * 4
    longest = embed_time(1.0, 8)[3].item()
    assert longest == pytest.approx(np.sin(2 * np.pi / 4.0), abs=1e-6)


@pytest.mark.parametrize("checkpoint", FLOW_CHECKPOINTS)
def test_bfloat16_stays_near_float32(checkpoint: str) -> None:
    config = model_config(*overrides(checkpoint))
    path = FOLDER / checkpoint / "model.safetensors"
    noise = torch.randn((1, config.action_horizon, 32), generator=torch.Generator().manual_seed(0))
    answers = []
    for dtype in (torch.float32, torch.bfloat16):
        loaded = load_model(config, path, torch.device("cpu"), dtype)
        answers.append(loaded.sample(loaded.prefix(*inputs(1)), noise, loaded.flow_steps(4)))
    difference = (answers[0] - answers[1]).abs()
    assert 0 < difference.mean() < 0.02 * answers[0].abs().mean()
