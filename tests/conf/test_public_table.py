"""Every public configuration is one env and one model, with all that its checkpoint relies on."""

from dataclasses import dataclass

import pytest

from tests.worker.composition import compose_worker
from worker.config import Architecture, Normalization

BUCKET = "gs://openpi-assets/checkpoints/"
ARMS = [*[True] * 6, False] * 2
FIRST_SIX = [*[True] * 6, False]
RESET = [0, -1.5, 1.5, 0, 0, 0]
CUBE = "lerobot/aloha_sim_transfer_cube_human"
LIBERO = "physical-intelligence/libero"


@dataclass(frozen=True)
class Row:
    """One public configuration, as its makers have it."""

    name: str
    env: str
    model: str
    robot: str
    horizon: int
    asset_id: str
    checkpoint: str | None
    delta_mask: list[bool] | None = None
    prompt: str | None = None
    reset_pose: list[float] | None = None
    state_in_prompt: bool | None = None
    prompt_length: int | None = None
    adapt_to_pi: bool = False


def aloha(name: str, env: str, model: str, checkpoint: str, prompt: str | None, reset: bool) -> Row:
    """Both arms of the real robot; only the task differs."""
    return Row(
        name,
        env,
        model,
        "aloha",
        50,
        "trossen",
        checkpoint,
        delta_mask=ARMS,
        prompt=prompt,
        reset_pose=RESET if reset else None,
        adapt_to_pi=True,
    )


ROWS = [
    aloha("pi0_aloha", "aloha", "pi0", "pi0_base", None, True),
    aloha("pi05_aloha", "aloha", "pi05", "pi05_base", None, True),
    aloha("pi0_aloha_towel", "aloha_towel", "pi0", "pi0_aloha_towel", "fold the towel", True),
    aloha(
        "pi0_aloha_tupperware",
        "aloha_tupperware",
        "pi0",
        "pi0_aloha_tupperware",
        "open the tupperware and put the food on the plate",
        True,
    ),
    aloha(
        "pi0_aloha_pen_uncap",
        "aloha_pen_uncap",
        "pi0",
        "pi0_aloha_pen_uncap",
        "uncap the pen",
        False,
    ),
    Row(
        "pi0_aloha_sim",
        "aloha_sim",
        "pi0",
        "aloha",
        50,
        CUBE,
        "pi0_aloha_sim",
        prompt="Transfer cube",
        adapt_to_pi=True,
    ),
    Row("pi0_droid", "droid", "pi0", "droid", 10, "droid", "pi0_droid"),
    Row("pi05_droid", "droid", "pi05", "droid", 15, "droid", "pi05_droid"),
    Row("pi0_fast_droid", "droid", "pi0_fast", "droid", 10, "droid", "pi0_fast_droid"),
    Row("pi0_libero", "libero", "pi0", "libero", 50, LIBERO, None, FIRST_SIX),
    Row(
        "pi0_fast_libero",
        "libero",
        "pi0_fast",
        "libero",
        10,
        LIBERO,
        None,
        FIRST_SIX,
        prompt_length=180,
    ),
    Row(
        "pi05_libero",
        "libero",
        "pi05",
        "libero",
        10,
        LIBERO,
        "pi05_libero",
        state_in_prompt=False,
    ),
]

ROBOT_ACTIONS = {"aloha": 14, "droid": 8, "libero": 7}
CONTROL_HZ = {"aloha": 50, "droid": 15, "libero": 20}
PROMPT_LENGTHS = {"pi0": 48, "pi05": 200, "pi0_fast": 250}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_the_whole_row(row: Row) -> None:
    config = compose_worker(f"env={row.env}", f"model={row.model}")
    env, model = config.env, config.model
    assert config.checkpoint == (row.checkpoint and BUCKET + row.checkpoint)
    assert config.tokenizer is None
    assert config.default_prompt == row.prompt
    assert (config.name, env.name) == (row.env, row.env)
    assert (env.robot, env.asset_id) == (row.robot, row.asset_id)
    assert (env.delta_mask, env.adapt_to_pi) == (row.delta_mask, row.adapt_to_pi)
    assert env.reset_pose == row.reset_pose
    assert env.action_dim == ROBOT_ACTIONS[row.robot]
    assert env.control_hz == CONTROL_HZ[row.robot]
    assert (model.name, model.architecture) == (row.model, Architecture(row.model))
    assert model.action_horizon == row.horizon
    fast = row.model == "pi0_fast"
    assert model.action_dim == (ROBOT_ACTIONS[row.robot] if fast else 32)
    assert model.max_token_len == (row.prompt_length or PROMPT_LENGTHS[row.model])
    by_default = row.model != "pi0"
    expected = by_default if row.state_in_prompt is None else row.state_in_prompt
    assert model.discrete_state_input == expected
    quantile = Normalization.zscore if row.model == "pi0" else Normalization.quantile
    assert model.normalization == quantile
    assert config.num_steps == 10
    assert not model.embedded


@pytest.mark.parametrize(
    ("env", "checkpoint"),
    [
        ("aloha", "pi05_base"),
        ("aloha_sim", "pi0_aloha_sim"),
        ("droid", "pi05_droid"),
        ("libero", "pi05_libero"),
    ],
)
def test_a_robot_alone_gives_the_public_default(env: str, checkpoint: str) -> None:
    assert compose_worker(f"env={env}").checkpoint == BUCKET + checkpoint
