"""What goes on learning when a checkpoint is refined, and from what."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.tiny.dataset import Statistics
from scripts.tiny.learner import corrected
from scripts.tiny.refining import Prefixes, Refining
from scripts.tiny.train import main
from scripts.tiny.training import Training
from tests.scripts.tiny.test_learner import SMALL_CONFIG, dataset, frames
from worker.checkpoints.shipped import FOLDER
from worker.errors import CheckpointError

ASSET = "lerobot/aloha_sim_transfer_cube_human"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    training = Training(SMALL_CONFIG, dataset(frames()), 2, folder, seeing_steps=1, batch=2)
    while training.step < 2:
        training.advance()
    training.export(ASSET)
    return folder


@pytest.fixture
def refine(checkpoint: Path, tmp_path: Path) -> Callable[..., Refining]:
    def begin(name: str = "refined", steps: int = 4) -> Refining:
        return Refining(
            SMALL_CONFIG,
            dataset(frames()),
            steps,
            tmp_path / name,
            checkpoint,
            save_every=2,
            batch=4,
        )

    return begin


def test_the_action_expert_alone_learns(refine: Callable[..., Refining]) -> None:
    refining = refine()
    before = {name: p.detach().clone() for name, p in refining.learner.model.named_parameters()}
    refining.advance()
    refining.advance()
    changed = {
        name
        for name, p in refining.learner.model.named_parameters()
        if not torch.equal(p, before[name])
    }
    assert any(name.startswith("expert.") for name in changed)
    assert "action_out_proj.weight" in changed
    assert not any(name.startswith(("vision.", "vlm.", "embedding")) for name in changed)


def test_it_begins_with_the_checkpoints_weights(
    refine: Callable[..., Refining], checkpoint: Path, tmp_path: Path
) -> None:
    refining = refine(steps=0)
    refining.export(ASSET)
    written = (tmp_path / "refined" / "model.safetensors").read_bytes()
    assert written == (checkpoint / "model.safetensors").read_bytes()


def test_a_refining_that_was_interrupted_goes_on_as_if_it_were_not(
    refine: Callable[..., Refining],
) -> None:
    whole = refine("whole")
    for _ in range(4):
        whole.advance()
    first = refine("parts")
    for _ in range(3):  # the third is lost
        first.advance()
    second = refine("parts")
    assert second.step == 2
    second.advance()
    second.advance()
    assert second.losses == whole.losses


def test_a_prefix_is_computed_once_and_belongs_to_its_frame(
    refine: Callable[..., Refining],
) -> None:
    shown, tokens = frames(), torch.zeros(3, dtype=torch.int64)
    learner = refine().learner
    both = Prefixes(learner, shown, tokens).of(np.array([5, 2, 5]))
    one_by_one = Prefixes(learner, shown, tokens)
    for place, number in enumerate([5, 2, 5]):
        alone = one_by_one.of(np.array([number]))
        for many, single in zip(both.keys + both.values, alone.keys + alone.values, strict=True):
            torch.testing.assert_close(many[place], single[0])
    assert not torch.equal(both.keys[0][0], both.keys[0][1])
    shown.images[:] = 0  # nobody looks again
    torch.testing.assert_close(one_by_one.of(np.array([5])).keys[0][0], both.keys[0][0])


def test_a_wrong_first_guess_is_led_to_the_right_actions() -> None:
    at = torch.tensor([[0.5] * 50])
    clean, noise = torch.zeros(1, 50, 32), torch.ones(1, 50, 32)
    noisy, right, _ = corrected(clean, noise, clean, at)
    torch.testing.assert_close(noisy, 0.5 * noise)
    torch.testing.assert_close(right, noise)
    noisy, right, weights = corrected(clean, noise, clean + 0.2, at)
    torch.testing.assert_close(noisy - at[..., None] * right, clean)  # there it leads
    assert float(right[0, 0, 0]) == pytest.approx(1.2)
    assert 0.0 < float(weights[0, 0]) < 1.0


def test_statistics_of_a_checkpoint_are_read_as_they_were_written(checkpoint: Path) -> None:
    state, actions = Statistics.read(checkpoint / "assets" / ASSET / "norm_stats.json")
    np.testing.assert_allclose(state.mean, dataset(frames()).state.mean)
    np.testing.assert_allclose(actions.std, dataset(frames()).actions.std)


@pytest.mark.parametrize(
    "held", ["[]", "{", '{"norm_stats": {"state": {"mean": [1], "std": [1]}}}']
)
def test_other_statistics_are_refused(held: str, tmp_path: Path) -> None:
    path = tmp_path / "norm_stats.json"
    path.write_text(held)
    with pytest.raises(CheckpointError, match="norm_stats"):
        Statistics.read(path)


def test_a_folder_that_is_no_checkpoint_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main([*where, "--refine", str(tmp_path)]) == 1
    assert "norm_stats.json" in capsys.readouterr().err
    assert main([*where, "--refine", str(FOLDER)]) == 1
    assert "scripts.tiny.collect" in capsys.readouterr().err
