"""Shares and their intervals, and the conditions that an evaluation varies."""

import numpy as np
import pytest

from scripts.tiny.scene import TRANSFER, Scene
from scripts.tiny.success import Share, as_json, markdown, rows, share, share_let_go
from scripts.tiny.trial import CONDITIONS, Condition, Outcome, observe, roll_out


@pytest.mark.parametrize(
    ("successes", "of", "low", "high"),
    # From the published example of R's binom package (Wilson), and the two ends.
    [(4, 10, 0.168180, 0.687326), (0, 50, 0.0, 0.071348), (50, 50, 0.928652, 1.0), (0, 0, 0, 1)],
)
def test_wilsons_interval(successes: int, of: int, low: float, high: float) -> None:
    assert Share(successes, of).interval == pytest.approx((low, high), abs=1e-5)


def test_shares_count_what_they_say() -> None:
    outcomes = [
        Outcome("transfer", "25 actions", seed, reward, None, let_go, [1.5, 1.5, 2.5])
        for seed, (reward, let_go) in enumerate([(4, True), (4, False), (2, False)])
    ]
    assert share(outcomes) == Share(2, 3)
    assert share(outcomes, least_reward=2) == Share(3, 3)
    assert share_let_go(outcomes) == Share(1, 3)
    (row,) = rows(outcomes)
    assert (row.success, row.let_go) == (Share(2, 3), Share(1, 3))
    assert row.rewards == (0, 0, 1, 0, 2)
    assert row.mean_batch == 4.5  # nine requests, which took two different times
    told = "| transfer | 25 actions | 2 of 3 (21 to 94 %) | 1 of 3 (6 to 79 %) | 0, 0, 1, 0, 2 |"
    assert markdown([row]).splitlines()[-1] == told
    (described,) = as_json([row])
    assert described["success"] == {"successes": 2, "of": 3, "low": 0.2077, "high": 0.9385}
    assert described["condition"]["actions_per_chunk"] == 25


def test_rows_stand_in_the_order_of_the_conditions() -> None:
    outcomes = [
        Outcome("transfer", name, 0, 4, 200, True, [1.0]) for name in reversed(list(CONDITIONS))
    ]
    assert [row.condition for row in rows(outcomes)] == list(CONDITIONS)


def test_insertion_has_no_cube_to_let_go() -> None:
    (row,) = rows([Outcome("insertion", "25 actions", 0, 4, 200, False, [1.0])])
    assert row.let_go is None
    assert as_json([row])[0]["let_go"] is None


def test_every_condition_changes_what_it_says() -> None:
    scene = Scene(TRANSFER)
    scene.reset(0)
    usual = observe(scene, CONDITIONS["25 actions"], 0, 3)
    image = usual["images"]["cam_high"]
    assert image.shape == (3, 224, 224)
    assert usual["prompt"] == "Transfer cube"
    assert not observe(scene, CONDITIONS["black images"], 0, 3)["images"]["cam_high"].any()
    assert observe(scene, CONDITIONS["wrong prompt"], 0, 3)["prompt"] == "Insert peg"
    seeds = {observe(scene, CONDITIONS["25 actions"], step, 3)["seed"] for step in (0, 25)}
    assert len(seeds) == 2
    same = {observe(scene, CONDITIONS["10 actions, same noise"], s, 3)["seed"] for s in (0, 10)}
    assert same == {0}
    assert CONDITIONS["3 steps"].server_settings == ["num_steps=3", "dtype=auto"]
    assert "runtime.slots=4" in CONDITIONS["batches of 4"].server_settings
    shared = {name for name, c in CONDITIONS.items() if not c.needs_own_servers}
    assert {"25 actions", "JPEG 50", "black images", "wrong prompt"} <= shared
    assert not {"3 steps", "float32", "batches of 4", "worker dies"} & shared
    scene.close()


class Resting:
    """Holds the arms where they are."""

    def __init__(self) -> None:
        self.asked = 0

    def infer(self, obs: dict[str, object]) -> dict[str, object]:
        self.asked += 1
        return {"actions": np.tile(np.asarray(obs["state"]), (50, 1))}


def test_who_does_nothing_transfers_nothing() -> None:
    condition = Condition("25 actions", black=True, control_steps=60)
    scene, policy = Scene(TRANSFER), Resting()
    asked_at: list[int] = []
    outcome = roll_out(scene, policy, condition, 2, asked_at.append)
    assert (outcome.reward, outcome.first_success, outcome.let_go) == (0, None, False)
    assert policy.asked == 3
    assert asked_at == [0, 25, 50]
    scene.close()
