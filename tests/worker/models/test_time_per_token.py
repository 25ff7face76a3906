"""A time for every action, as trained real-time chunking needs it."""

import pytest
import torch

from tests.worker.composition import model_config
from worker.models.pi0 import Pi0, embed_time
from worker.runtime.loading import load_model


@pytest.fixture(params=["pi0", "pi05"])
def model(request: pytest.FixtureRequest) -> Pi0:
    config = model_config("model=tiny", f"model.architecture={request.param}")
    made = load_model(config, None, torch.device("cpu"), torch.float32)
    # Seeded adaptive norms do nothing with the time; these do.
    for name, parameter in made.named_parameters():
        if name.endswith("dense.weight"):
            parameter.copy_(0.02 * torch.randn(parameter.shape))
    return made


def velocity(model: Pi0, times: float | torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 255, (2, 1, 224, 224, 3), dtype=torch.uint8, generator=generator)
    tokens = torch.tensor([[2, 5, 4], [2, 6, 4]])
    state = torch.randn(2, model.config.action_dim, generator=generator)
    shape = (2, model.config.action_horizon, model.config.action_dim)
    cache = model.prefix(images, tokens, state)
    noise = torch.randn(shape, generator=generator)
    return model.velocity(noise, cache, model.flow_step(times))


def test_times_that_are_all_alike_are_one_time(model: Pi0) -> None:
    alike = torch.full((2, model.config.action_horizon), 0.7)
    torch.testing.assert_close(velocity(model, alike), velocity(model, 0.7), rtol=1e-4, atol=1e-5)


def test_each_request_and_action_has_its_own_time(model: Pi0) -> None:
    times = torch.full((2, model.config.action_horizon), 0.7)
    times[1, :5] = 0.0
    changed = (velocity(model, times) - velocity(model, 0.7)).abs().amax(dim=-1)
    assert torch.allclose(changed[0], torch.zeros(()), atol=1e-4)
    assert changed[1, :5].min() > 1e-3


def test_the_embedding_of_many_times_is_that_of_each() -> None:
    times = torch.tensor([[0.0, 0.3], [0.9, 1.0]])
    embedded = embed_time(times, 64)
    assert embedded.shape == (2, 2, 64)
    for row, column in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        torch.testing.assert_close(embedded[row, column], embed_time(float(times[row, column]), 64))
