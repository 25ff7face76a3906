"""How the tiny model begins, what it is asked, and that a training goes on where it stopped."""

from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.tiny.dataset import REST, Dataset, Frames, Statistics
from scripts.tiny.learner import FLOW_TIMES, LONGEST_DELAY, Learner, flow_times
from scripts.tiny.scene import INSERTION, TRANSFER
from scripts.tiny.training import Training
from tests.worker.composition import make_policy, model_config
from worker.robots.aloha import actions_from_model, actions_to_model

HORIZON = 50
SMALL = (
    "model.vlm={width: 32, depth: 1, mlp_dim: 32}",
    "model.expert={width: 32, depth: 1, mlp_dim: 32}",
    "model.vision={width: 96, depth: 1, mlp_dim: 32, num_heads: 3}",
)
"""How a training goes on, and what it writes, does not depend on the model's size."""
CONFIG = model_config("model=tiny")
SMALL_CONFIG = model_config("model=tiny", *SMALL)


def frames(count: int = 24, insertion: bool = False) -> Frames:
    random = np.random.default_rng(int(insertion))
    images = np.full((count, 224, 224, 3), 70, np.uint8)
    for image, (row, column) in zip(images, random.integers(60, 150, (count, 2)), strict=True):
        image[row : row + 7, column : column + 7] = (255, 0, 0)
    chunks = random.standard_normal((count, HORIZON, 14), np.float32)
    return Frames(
        INSERTION if insertion else TRANSFER,
        images,
        random.standard_normal((count, 14), np.float32),
        chunks,
        chunks[::-1].copy(),
        random.standard_normal((count, 2 if insertion else 1, 2), np.float32),
        np.zeros(count, np.int64),
    )


def dataset(*parts: Frames) -> Dataset:
    statistics = Statistics(np.zeros(14), np.ones(14))
    return Dataset(list(parts), statistics, statistics)


def test_filters_begin_as_cosines_that_see_where_a_cube_is() -> None:
    seen = torch.from_numpy(frames().images)
    torch.manual_seed(0)
    patches = Learner(CONFIG, seen).model.vision.patch_embedding
    brightness, red_green, _ = patches.weight[:3].detach()
    # The first of each colour is flat; brightness sums the colours, red-green tells two apart.
    assert float(brightness.std()) < 1e-6
    torch.testing.assert_close(red_green[0], -red_green[1])
    assert not patches.weight.requires_grad
    answers = patches(seen.permute(0, 3, 1, 2).float() / 127.5 - 1).detach()
    strongest = answers[:, 1].flatten(1).abs().argmax(1)
    columns = torch.from_numpy(np.argwhere(seen.numpy()[..., 1] == 0))
    for number in range(len(seen)):
        _, row, column = columns[columns[:, 0] == number].float().mean(0)
        assert abs(int(strongest[number]) // 8 - float(row) / 28 + 0.5) < 1.0
        assert abs(int(strongest[number]) % 8 - float(column) / 28 + 0.5) < 1.0


def test_given_actions_are_at_time_zero_and_half_of_the_flows_have_none() -> None:
    times, given = flow_times(400, HORIZON, torch.Generator().manual_seed(0))
    assert times.shape == given.shape == (400 * FLOW_TIMES, HORIZON)
    assert (times[given] == 0.0).all()
    assert (times[~given] > 0.0).all()
    delays = given.sum(1)
    assert delays.max() == LONGEST_DELAY
    counts = torch.bincount(delays, minlength=LONGEST_DELAY + 1)
    assert counts[0] >= 800
    assert counts[1:].min() > 25
    # Given actions are the first ones.
    assert all(bool(row[:n].all()) for row, n in zip(given, delays.tolist(), strict=True))
    # Beta(1.5, 1) has the mean 0.6.
    assert abs(float(times[:, -1].mean()) - 0.6) < 0.01


def test_commands_and_the_models_actions_are_inverses() -> None:
    commands = np.random.default_rng(0).uniform(-1, 1, (HORIZON, 14))
    np.testing.assert_allclose(actions_from_model(actions_to_model(commands)), commands)


def test_hardly_moving_joints_are_not_blown_up() -> None:
    statistics = Statistics.of(np.tile(REST, (10, 1)))
    assert statistics.std.min() == pytest.approx(0.02)
    assert np.abs(statistics.normalize(REST)).max() < 1e-5


def test_padded_inputs_keep_no_weight(tmp_path: Path) -> None:
    training = Training(SMALL_CONFIG, dataset(frames()), 4, tmp_path, seeing_steps=2, batch=2)
    while training.step < 4:
        training.advance()
    for layer in (training.learner.model.state_proj, training.learner.model.action_in_proj):
        assert float(layer.weight.detach()[:, 14:].abs().max()) == 0.0
        assert float(layer.weight.detach()[:, :14].abs().max()) > 0.0


def test_a_training_that_was_interrupted_goes_on_as_if_it_were_not(tmp_path: Path) -> None:
    data = dataset(frames(), frames(insertion=True))
    whole = Training(
        SMALL_CONFIG, data, 4, tmp_path / "whole", seeing_steps=1, save_every=2, batch=2
    )
    for _ in range(4):
        whole.advance()
    first = Training(
        SMALL_CONFIG, data, 4, tmp_path / "parts", seeing_steps=1, save_every=2, batch=2
    )
    for _ in range(3):  # the third is lost
        first.advance()
    second = Training(
        SMALL_CONFIG, data, 4, tmp_path / "parts", seeing_steps=1, save_every=2, batch=2
    )
    assert second.step == 2
    for _ in range(2):
        second.advance()
    assert second.losses == whole.losses


def test_what_does_not_learn_stays_although_frames_were_added(tmp_path: Path) -> None:
    first = Training(SMALL_CONFIG, dataset(frames()), 2, tmp_path, save_every=1, batch=2)
    first.advance()
    more = Training(SMALL_CONFIG, dataset(frames(insertion=True)), 2, tmp_path, batch=2)
    assert more.step == 1
    before, after = (t.learner.model.vision.patch_embedding.weight for t in (first, more))
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_tasks_that_share_threads_learn_the_same(tmp_path: Path) -> None:
    data = dataset(frames(), frames(insertion=True))
    one, two = (
        Training(
            SMALL_CONFIG,
            data,
            3,
            tmp_path / str(n),
            seeing_steps=1,
            save_every=9,
            batch=2,
            threads=n,
        )
        for n in (1, 2)
    )
    for _ in range(3):
        one.advance()
        two.advance()
    assert one.losses == two.losses


def test_a_worker_serves_what_was_written(tmp_path: Path) -> None:
    training = Training(SMALL_CONFIG, dataset(frames()), 2, tmp_path, seeing_steps=1, batch=2)
    while training.step < 2:
        training.advance()
    training.export("lerobot/aloha_sim_transfer_cube_human")
    assert (tmp_path / "loss.png").stat().st_size > 1000
    settings = ("env=aloha_sim", "model=tiny", *SMALL, f"checkpoint='{tmp_path}'", "num_steps=1")
    policy = make_policy(*settings)
    assert policy.metadata["untrained"] is False
    policy.load()
    frame = np.zeros((3, 224, 224), np.uint8)
    actions = policy.infer({"state": np.zeros(14), "images": {"cam_high": frame}})["actions"]
    assert actions.shape == (HORIZON, 14)
