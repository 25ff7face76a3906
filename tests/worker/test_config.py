"""`conf/worker.yaml` composes to the public configurations, and refuses what it does not know."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from client.body import decode_body, encode_body
from conf.compose import FOLDER, ConfigError
from tests.worker.composition import compose_worker
from worker.__main__ import build
from worker.config import ExpertConfig, Normalization, WorkerConfig

PUBLIC = "gs://openpi-assets/checkpoints/"
ARMS = [True] * 6 + [False] + [True] * 6 + [False]
RESET = [0, -1.5, 1.5, 0, 0, 0]
CUBE = "lerobot/aloha_sim_transfer_cube_human"
LIBERO = "physical-intelligence/libero"
TUPPERWARE = "open the tupperware and put the food on the plate"

# The public table: settings; model, horizon, delta mask, prompt, asset, checkpoint, reset pose.
ROWS: list[tuple[str, list[Any]]] = [
    ("env=aloha model=pi0", ["pi0", 50, ARMS, None, "trossen", "pi0_base", RESET]),
    ("env=aloha model=pi05", ["pi05", 50, ARMS, None, "trossen", "pi05_base", RESET]),
    ("env=aloha", ["pi05", 50, ARMS, None, "trossen", "pi05_base", RESET]),
    (
        "env=aloha_towel",
        ["pi0", 50, ARMS, "fold the towel", "trossen", "pi0_aloha_towel", RESET],
    ),
    (
        "env=aloha_tupperware",
        ["pi0", 50, ARMS, TUPPERWARE, "trossen", "pi0_aloha_tupperware", RESET],
    ),
    (
        "env=aloha_pen_uncap",
        ["pi0", 50, ARMS, "uncap the pen", "trossen", "pi0_aloha_pen_uncap", None],
    ),
    ("env=aloha_sim", ["pi0", 50, None, "Transfer cube", CUBE, "pi0_aloha_sim", None]),
    ("env=aloha_sim model=pi0", ["pi0", 50, None, "Transfer cube", CUBE, "pi0_aloha_sim", None]),
    ("env=droid", ["pi05", 15, None, None, "droid", "pi05_droid", None]),
    ("env=droid model=pi0", ["pi0", 10, None, None, "droid", "pi0_droid", None]),
    ("env=libero", ["pi05", 10, None, None, LIBERO, "pi05_libero", None]),
    ("env=libero model=pi0", ["pi0", 50, [True] * 6 + [False], None, LIBERO, None, None]),
    ("env=droid model=pi0_fast", ["pi0_fast", 10, None, None, "droid", "pi0_fast_droid", None]),
    (
        "env=libero model=pi0_fast",
        ["pi0_fast", 10, [True] * 6 + [False], None, LIBERO, None, None],
    ),
    ("env=aloha_sim model=tiny", ["tiny", 50, None, "Transfer cube", CUBE, None, None]),
]


@pytest.mark.parametrize(("settings", "expected"), ROWS, ids=[row[0] for row in ROWS])
def test_env_and_model_give_the_public_configuration(settings: str, expected: list[Any]) -> None:
    config = compose_worker(*settings.split())
    checkpoint = expected[5] and PUBLIC + expected[5]
    assert [
        config.model.name,
        config.model.action_horizon,
        config.env.delta_mask,
        config.default_prompt,
        config.env.asset_id,
        config.checkpoint,
        config.env.reset_pose,
    ] == [*expected[:5], checkpoint, expected[6]]
    assert config.name == config.env.name


# Mappings are tables of names, not settings.
SETTINGS = [
    path
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name != "broker.yaml" and path.parent.name != "mapping"
]


@pytest.mark.parametrize("path", SETTINGS, ids=lambda p: str(p.relative_to(FOLDER)))
def test_every_key_has_a_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    comments = " ".join(line for line in lines if line.startswith("#"))
    bare = []
    for before, line in itertools.pairwise(["", *lines]):
        key = line.lstrip().partition(":")[0]
        opens_a_part = key in ("defaults", "env", "model") and line == f"{key}:"
        handed_over = line == f"{key}: ${{{key}}}"
        # For parts that have the same keys, and for several keys that belong together.
        told_once = any(form in comments for form in (f"`{key}`", f" {key}: ", f" {key} seconds"))
        told = before.lstrip().startswith("#") or opens_a_part or handed_over or told_once
        if ":" in line and not line.lstrip().startswith(("#", "-")) and not told:
            bare.append(line)
    assert bare == []


def test_the_models_have_the_public_sizes() -> None:
    config = compose_worker("env=aloha", "model=pi05").model
    assert list(vars(config.vlm).values()) == [2048, 18, 16384, 8, 1, 256]
    assert list(vars(config.expert).values()) == [1024, 18, 4096, 8, 1, 256]
    assert list(vars(config.vision).values()) == [1152, 27, 4304, 16, 14]
    assert (config.vocab_size, config.max_token_len, config.action_dim) == (257152, 200, 32)
    assert compose_worker("env=aloha", "model=pi0").model.max_token_len == 48


@pytest.mark.parametrize(("env", "action_dim", "length"), [("droid", 8, 250), ("libero", 7, 180)])
def test_pi0_fast_has_no_expert_and_the_robots_own_actions(
    env: str, action_dim: int, length: int
) -> None:
    config = compose_worker(f"env={env}", "model=pi0_fast")
    model = config.model
    assert list(vars(model.vlm).values()) == [2048, 18, 16384, 8, 1, 256]
    assert (model.expert, model.action_dim, model.max_token_len) == (None, action_dim, length)
    assert (model.normalization, model.discrete_state_input) == (Normalization.quantile, True)
    assert config.policy["_target_"] == "worker.policies.pi0_fast.Pi0FastPolicy"


def test_the_model_chooses_its_policy_unless_the_command_line_does() -> None:
    for model, policy in (("pi0", "pi0.Pi0Policy"), ("pi05", "pi0.Pi0Policy")):
        config = compose_worker("env=droid", f"model={model}")
        assert config.policy["_target_"] == f"worker.policies.{policy}"
    config = compose_worker("env=droid", "model=pi0_fast", "policy=noop")
    assert config.policy["_target_"] == "worker.policies.noop.NoopPolicy"


@pytest.mark.parametrize(
    "settings",
    [
        ["model=pi0", "model.expert=null"],
        ["model=pi0_fast", "model.discrete_state_input=false"],
        ["model=pi0", "model.discrete_state_input=true", "model.architecture=pi0_fast"],
    ],
)
def test_an_expert_belongs_to_a_flow_and_text_to_pi0_fast(settings: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"model\.expert=null"):
        compose_worker("env=droid", *settings)


def test_only_pi05_without_libero_reads_the_state_as_text() -> None:
    states = {
        (env, model): compose_worker(f"env={env}", f"model={model}").model.discrete_state_input
        for env in ("aloha", "droid", "libero")
        for model in ("pi0", "pi05")
    }
    assert {key for key, value in states.items() if value} == {("aloha", "pi05"), ("droid", "pi05")}


def test_the_command_line_wins_over_env_and_recipe() -> None:
    settings = ["env=droid", "model.action_horizon=7", "checkpoint=here", "default_prompt=hold"]
    config = compose_worker(*settings, "name=bench")
    assert (config.model.action_horizon, config.checkpoint) == (7, "here")
    assert (config.default_prompt, config.name) == ("hold", "bench")
    assert compose_worker("env=aloha_sim", "default_prompt=null").default_prompt is None


@pytest.mark.parametrize("policy", ["echo", "noop"])
def test_policies_without_a_model_take_shape_from_env_and_model(policy: str) -> None:
    config = compose_worker("env=libero", f"policy={policy}")
    assert (config.policy["action_horizon"], config.policy["action_dim"]) == (10, 7)


def test_the_null_policy_has_a_settable_time() -> None:
    config = compose_worker("policy=noop", "policy.time_s=0.02")
    assert config.policy["_target_"] == "worker.policies.noop.NoopPolicy"
    assert config.policy["time_s"] == 0.02


class Upright:
    """A policy of one's own."""

    def __init__(self, metadata: dict[str, Any], poses: list[dict[str, float]]) -> None:
        self.metadata = {**metadata, "poses": poses}

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Nothing."""
        return {}


def test_a_policy_of_ones_own_is_given_what_can_be_sent() -> None:
    given = "metadata: {horizon: 3, arm: {joints: [1, 2]}}, poses: [{x: 0.5}]"
    config = compose_worker(f"policy={{_target_: {__name__}.Upright, {given}}}")
    metadata: Any = getattr(build(config), "metadata", None)
    assert metadata == {"horizon": 3, "arm": {"joints": [1, 2]}, "poses": [{"x": 0.5}]}
    assert decode_body(encode_body(metadata, buffers=False)) == metadata


@pytest.mark.parametrize(
    "wrong",
    [
        "model.depth=3",
        "+nonsense=1",
        "+env.nonsense=1",
        "device=tpu",
        "dtype=float16",
        "env.robot=spot",
        "model.architecture=pi1",
        "model.normalization=minmax",
        "num_steps=many",
        "env.delta_mask=7",
        "env=spot",
        "model=gpt",
    ],
)
def test_an_unknown_key_or_value_fails_at_once(wrong: str) -> None:
    with pytest.raises(ConfigError):
        compose_worker(wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        "num_steps=0",
        "seed=-1",
        "device=gpu",
        "device=cuda:x",
        "name=''",
        f"name={'x' * 129}",
        "name=aloha@2",
        "version=''",
        "version=1@2",
        f"version={'x' * 128}",
        "runtime.slots=0",
        "runtime.threads=0",
        "env.control_hz=0",
        "model.action_horizon=0",
        "model.vlm.width=0",
        "model.expert.head_dim=32",
        "model.vlm.num_kv_heads=3",
        "model.vision.patch_size=15",
        "model.vision.num_heads=5",
    ],
)
def test_values_that_cannot_work_are_named(wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong.partition("=")[0].split(".")[-1]):
        compose_worker("env=aloha_sim", "model=tiny", wrong)


@pytest.mark.parametrize(
    ("version", "served"),
    [
        ("2", "arm@2"),
        ("2.0", "arm@2.0"),
        ("007", "arm@007"),
        ("2026-11-27", "arm@2026-11-27"),
        ("true", "arm@true"),
        ("null", "arm"),
    ],
)
def test_a_version_is_taken_as_it_was_typed(version: str, served: str) -> None:
    config = compose_worker("env=aloha_sim", "model=tiny", "name=arm", f"version={version}")
    assert config.full_name == served


@pytest.mark.parametrize("device", ["cuda:3", "cuda", "cpu", "auto"])
def test_a_device_is_named_as_torch_names_it(device: str) -> None:
    config = compose_worker("env=aloha", "model=tiny", f"device={device}")
    assert (config.device, config.policy["device"]) == (device, device)


def test_good_settings_become_typed_objects() -> None:
    config = compose_worker("env=aloha", "model=tiny")
    assert isinstance(config, WorkerConfig)
    assert isinstance(config.model.expert, ExpertConfig)
    assert config.env.delta_mask == ARMS


def test_a_list_of_words_is_a_list() -> None:
    assert compose_worker("env=droid", "runtime.rtc=[trained]").runtime.rtc == ["trained"]
    assert compose_worker("env=droid", "runtime.rtc=[]").runtime.rtc == []


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("[magic]", "runtime.rtc has magic: .* identity, vjp, trained"),
        ("vjp", "a list is expected"),
    ],
)
def test_only_known_forms_of_real_time_chunking_are_served(value: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose_worker("env=droid", f"runtime.rtc={value}")
