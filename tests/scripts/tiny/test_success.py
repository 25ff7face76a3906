"""Shares and their intervals, and the conditions that an evaluation varies."""

import numpy as np
import pytest

from scripts.tiny.rollout import CONDITIONS, Condition, Outcome, observe, roll_out, through_jpeg
from scripts.tiny.scene import TRANSFER, Scene
from scripts.tiny.success import Share, share, share_let_go, table


@pytest.mark.parametrize(
    ("successes", "of", "low", "high"),
    # From the published example of R's binom package (Wilson), and the two ends.
    [(4, 10, 0.168180, 0.687326), (0, 50, 0.0, 0.071348), (50, 50, 0.928652, 1.0), (0, 0, 0, 1)],
)
def test_wilsons_interval(successes: int, of: int, low: float, high: float) -> None:
    assert Share(successes, of).interval == pytest.approx((low, high), abs=1e-5)


def test_shares_count_what_they_say() -> None:
    outcomes = [
        Outcome("transfer", "25 actions", seed, reward, None, let_go)
        for seed, (reward, let_go) in enumerate([(4, True), (4, False), (2, False)])
    ]
    assert share(outcomes) == Share(2, 3)
    assert share(outcomes, least_reward=2) == Share(3, 3)
    assert share_let_go(outcomes) == Share(1, 3)
    assert table(outcomes).row_count == 1


def test_every_condition_changes_what_it_says() -> None:
    scene = Scene(TRANSFER)
    scene.reset(0)
    usual = observe(scene, CONDITIONS["25 actions"], 0, 3)
    image = usual["images"]["cam_high"]
    assert image.shape == (3, 224, 224)
    assert usual["prompt"] == "Transfer cube"
    assert not observe(scene, CONDITIONS["black images"], 0, 3)["images"]["cam_high"].any()
    assert observe(scene, CONDITIONS["wrong prompt"], 0, 3)["prompt"] == "Insert peg"
    compressed = observe(scene, CONDITIONS["JPEG 50"], 0, 3)["images"]["cam_high"]
    assert np.abs(compressed.astype(int) - image).max() > 0
    seeds = {observe(scene, CONDITIONS["25 actions"], step, 3)["seed"] for step in (0, 25)}
    assert len(seeds) == 2
    same = {observe(scene, CONDITIONS["10 actions, same noise"], s, 3)["seed"] for s in (0, 10)}
    assert same == {0}
    assert CONDITIONS["3 steps"].server_settings == ["num_steps=3", "dtype=auto"]
    scene.close()


def test_jpeg_keeps_a_picture_nearly_as_it_is() -> None:
    ramp = np.tile(np.arange(224, dtype=np.uint8)[:, None, None], (1, 224, 3))
    assert np.abs(through_jpeg(ramp, 95).astype(int) - ramp).mean() < 2


class Resting:
    """Holds the arms where they are."""

    def __init__(self) -> None:
        self.asked = 0

    def infer(self, obs: dict[str, object]) -> dict[str, object]:
        self.asked += 1
        return {"actions": np.tile(np.asarray(obs["state"]), (50, 1))}


def test_who_does_nothing_transfers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.tiny.rollout.EPISODE_STEPS", 60)
    scene, policy = Scene(TRANSFER), Resting()
    outcome = roll_out(scene, policy, Condition("25 actions", black=True), seed=2)
    assert (outcome.reward, outcome.first_success, outcome.let_go) == (0, None, False)
    assert policy.asked == 3
    scene.close()
