"""Demonstrations are decided by their seed, and what is there is not made again."""

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from scripts.tiny.collect import collect, main
from scripts.tiny.episodes import (
    FIRST_TRAINING_SEED,
    Demonstration,
    command_noise,
    demonstrate,
    frame_steps,
)
from scripts.tiny.expert import CAREFUL, STEPS, Expert
from scripts.tiny.scene import TRANSFER, Scene


@pytest.fixture(scope="module")
def demonstration() -> Demonstration:
    scene = Scene(TRANSFER)
    return demonstrate(scene, Expert(TRANSFER, scene.physics.model.ptr), FIRST_TRAINING_SEED)


def test_another_process_makes_the_same_episode(
    demonstration: Demonstration, tmp_path: Path
) -> None:
    console = Console(quiet=True)
    assert collect("transfer", 1, tmp_path, 1, console) == 1
    path = tmp_path / "transfer" / "000000.npz"
    made = Demonstration.load(path)
    for name, values in vars(demonstration).items():
        np.testing.assert_array_equal(getattr(made, name), values)
    before = path.stat().st_mtime_ns
    assert collect("transfer", 1, tmp_path, 1, console) == 1
    assert path.stat().st_mtime_ns == before


def test_a_demonstration_has_the_start_and_fits_the_plan(demonstration: Demonstration) -> None:
    assert demonstration.steps[0] == 0
    assert len(demonstration.steps) == len(demonstration.images) == len(demonstration.states)
    assert demonstration.images.shape[1:] == (224, 224, 3)
    assert demonstration.plan.shape == (STEPS, 14)
    # The arms follow the plan, but for the noise and their own lag.
    rows = np.minimum(demonstration.steps, STEPS - 1)
    arms = [*range(6), *range(7, 13)]
    wrong = np.abs(demonstration.states - demonstration.plan[rows])[:, arms]
    assert 0.0 < wrong[1:].max() < 0.3


def test_noise_begins_at_zero_is_smooth_and_spares_grippers_and_grasps() -> None:
    noise = np.stack([command_noise(np.random.default_rng(s), "transfer") for s in range(20)])
    assert np.abs(noise[:, 0]).max() == 0.0
    assert np.abs(noise[..., [6, 13]]).max() == 0.0
    assert np.abs(np.diff(noise, axis=1)).max() < 0.02
    (first, last), _ = CAREFUL["transfer"]
    assert np.abs(noise[:, first:last]).mean() < 0.3 * np.abs(noise[:, 40:70]).mean()


def test_frames_are_taken_where_care_is_needed() -> None:
    chosen = [frame_steps(np.random.default_rng(seed), "transfer") for seed in range(50)]
    assert all(0 in steps for steps in chosen)
    for first, last in CAREFUL["transfer"]:
        within = [sum(first - 5 <= s <= last + 5 for s in steps) for steps in chosen]
        assert min(within) >= 2


def test_the_meeting_has_as_many_more_frames_and_as_much_noise_as_asked_for() -> None:
    _, (first, last) = CAREFUL["transfer"]
    usual, more = (
        [frame_steps(np.random.default_rng(seed), "transfer", count) for seed in range(20)]
        for count in (0, 8)
    )
    for few, many in zip(usual, more, strict=True):
        assert few <= many
        assert 5 <= len(many - few) <= 8
        assert all(first - 20 <= step <= last for step in many - few)
    quiet, noisy = (
        command_noise(np.random.default_rng(3), "transfer", share) for share in (0.1, 0.5)
    )
    np.testing.assert_allclose(5.0 * quiet[first : last + 1], noisy[first : last + 1])
    np.testing.assert_array_equal(quiet[:150], noisy[:150])


def test_a_smaller_shadow_map_makes_nearly_the_same_picture() -> None:
    pictures = []
    for shadow_pixels in (None, 1024):
        scene = Scene(TRANSFER, shadow_pixels)
        scene.reset(3)
        pictures.append(scene.small_picture().astype(int))
        scene.close()
    usual, fewer = pictures
    assert 0.0 < np.abs(usual - fewer).mean() < 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        ["--meeting-frames", "-1"],
        ["--meeting-noise", "1.5"],
        ["--meeting-noise", "nan"],
        ["--shadow-pixels", "0"],
    ],
)
def test_a_senseless_style_is_refused(wrong: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([*wrong, "--output", str(tmp_path)])
    assert stopped.value.code == 2


def test_a_senseless_number_of_episodes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--episodes", "0", "--output", str(tmp_path)])
    assert stopped.value.code == 2
