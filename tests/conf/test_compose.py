"""Settings: right ones become typed objects, each mistake one line that names the key."""

from __future__ import annotations

import operator
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from broker.config import BrokerConfig
from conf.compose import FOLDER, ConfigError, compose, usage
from conf.overrides import as_hydra_takes_them, named_as_groups
from worker.config import WorkerConfig


def broker(*overrides: str) -> BrokerConfig:
    return compose("broker", BrokerConfig, overrides)


def worker(*overrides: str) -> WorkerConfig:
    return compose("worker", WorkerConfig, overrides)


def test_the_brokers_defaults_are_those_of_its_schema() -> None:
    assert broker() == BrokerConfig()


def test_settings_arrive_with_their_types() -> None:
    config = broker("frontend=tcp://127.0.0.1:9000", "limits.max_bytes=1000", "timers.drain_ms=0.5")
    assert config.frontend == "tcp://127.0.0.1:9000"
    assert (config.limits.max_bytes, config.timers.drain_ms) == (1000, 0.5)
    assert worker("env=libero", "num_steps=3", "name=mine").num_steps == 3


@pytest.mark.parametrize("given", ["'tcp://[::1]:8000'", "tcp://[::1]:8000"])
def test_an_address_with_brackets_may_have_quotes(given: str) -> None:
    assert broker(f"frontend={given}").frontend == "tcp://[::1]:8000"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("frontendd=tcp://x:1", r"unknown key 'frontendd': did you mean 'frontend'\?"),
        ("+frontendd=tcp://x:1", r"unknown key 'frontendd': did you mean 'frontend'\?"),
        ("++frontendd=tcp://x:1", r"unknown key 'frontendd': did you mean 'frontend'\?"),
        ("foo=1", "unknown key 'foo'; --help lists them all"),
        ("+foo=1", "unknown key 'foo'; --help lists them all"),
        ("limits.max_byte=1", r"unknown key 'limits.max_byte': did you mean 'limits.max_bytes'\?"),
        ("+limits.max_byte=1", r"unknown key 'limits.max_byte': did you mean"),
        ("hydra.run.dir=x", "unknown key 'hydra.run.dir=x'"),
        ("limits.max_bytes=many", "limits.max_bytes: .*'many'.*Integer"),
        ("limits.max_bytes=1.5", "limits.max_bytes: .*1.5"),
        ("limits.max_bytes=null", "limits.max_bytes"),
        ("limits.max_bytes=0", "limits.max_bytes is 0: a number above 0"),
        ("limits.max_bytes=-1", "limits.max_bytes is -1"),
        ("timers.heartbeat_ms=nan", "timers.heartbeat_ms is nan"),
        ("timers.heartbeat_ms=inf", "timers.heartbeat_ms is inf"),
        ("timers.suspect_ms=100", "timers.suspect_ms must be at least twice"),
        ("limits=5", r"limits is 5: .* set one by one as in limits.max_bytes=\.\.\.; they are "),
        ("limits=[1]", "limits"),
        ("limits=null", "limits is None: .*limits.max_bytes="),
        ("timers=fast", "timers is 'fast': .*timers.heartbeat_ms="),
        ("limits.max_bytes={a: 1}", "limits.max_bytes: .*Integer"),
        ("limits.default_deadline_s=1e9", "limits.default_deadline_s is .* 86400 at most"),
        ("timers.drain_ms=1e9", "timers.drain_ms is .* 8.64e.07 at most"),
        ("timers.heartbeat_ms=0.5", "timers.heartbeat_ms is 0.5: at least 1"),
        ("limits.max_total_bytes=10", "limits.max_total_bytes is 10: .*limits.max_bytes, 16000000"),
        ("insecure=5", "insecure is 5: true or false"),
        ("insecure=1", "insecure is 1: true or false"),
        ("insecure=0.5", "insecure is 0.5: true or false"),
        ("frontend={a: 1}", "frontend is '{a: 1}': tcp://"),
        ("log_level=1e5", "log_level is '1e5'"),
        ("--frontend", r"--frontend is no option: .*did you mean frontend=VALUE\?"),
        ("--frontend=tcp://x:1", r"did you mean frontend=tcp://x:1\?"),
        ("--log-format=json", r"did you mean log_format=json\?"),
        ("--forntend=x", r"did you mean frontend=x\?"),
        ("-x", "-x is no option: settings are KEY=VALUE. --help lists them all"),
        ("--limits.max_bytes=5", r"did you mean limits.max_bytes=5\?"),
        ("frontend=127.0.0.1:8000", "frontend is '127.0.0.1:8000': tcp://ADDRESS:PORT"),
        ("frontend=tcp://127.0.0.1:8001", "the same"),
        ("frontend=tcp://127.0.0.1:99999", "a port from 1 to 65535"),
        ("backend=tcp://127.0.0.1:0", "a port from 1 to 65535"),
        ("backend=tcp://127.0.0.1", "a port from 1 to 65535"),
        ("log_level=loud", "log_level is 'loud': debug, info"),
        ("frontend", r"'frontend' is not KEY=VALUE: did you mean frontend=VALUE\?"),
        ("log_level.x=1", "log_level.x"),
        ("=1", "unknown key ''"),
        ("", "."),
        ("frontend=[", r"\["),
        ("frontend=${nothing}", "nothing"),
    ],
)
def test_a_brokers_mistake_is_one_line_that_names_it(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        broker(override)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("env=alhoa", r"env=alhoa is not one of .*: did you mean 'aloha'\?"),
        ("env=5", "env=5 is not one of"),
        ("model=huge", "model=huge is not one of .*tiny"),
        ("policy=nothing", "policy=nothing is not one of echo, noop, pi0"),
        ("policy=[1]", r"policy=\[1\] is not one of"),
        ("runtime=fast", "runtime=fast is not one of default"),
        ("env={a: 1}", "env={a: 1} is not one of"),
        ("recipe=nonsense", "recipe=nonsense is not one of aloha_pen_uncap_pi0, .*"),
        ("+recipe=droid_pi5", r"recipe=droid_pi5 .*: did you mean 'droid_pi05'\?"),
        ("recipe=null", "recipe=null is not one of"),
        ("policy=null", "policy=null is not one of echo, noop, pi0"),
        ("env=1e5", "env=1e5 is not one of"),
        ("env=007", "env=007 is not one of"),
        ("checkpoint=???", r"checkpoint=\?\?\?: .* a value that is still to come"),
        ("download=5", "download is 5: .*download.cache_dir="),
        ("download=null", "download is None"),
        ("model.vlm=5", "model.vlm is 5: .*model.vlm.width="),
        ("model.vlm=null", "model.vlm is None"),
        ("model.expert=5", "model.expert is 5"),
        ("model.vlm.depth=-1", "model.vlm/expert.depth must be at least 1"),
        ("env.delta_mask=5", "env.delta_mask is 5: a list is expected"),
        ("env.delta_mask={a: 1}", "env.delta_mask is {'a': 1}: a list is expected"),
        ("env.reset_pose=[a]", r"env.reset_pose\[0\]: .*'a'"),
        ("env.action_dim=-1", "env.action_dim must be at least 1, got -1"),
        ("env.action_dim=null", "env.action_dim: .*None"),
        ("runtime.slots=0", "runtime.slots must be at least 1"),
        ("runtime.slots=65", "runtime.slots may be 64 at most"),
        ("runtime.batch_wait_s=inf", "runtime.batch_wait_s 10, got 1 and inf"),
        ("download.connections=-1", "download.connections must be at least 1"),
        (
            "model.normalization=none",
            r"model.normalization: .*expected one of \[zscore, quantile\]",
        ),
        ("runtime.graphs=2", "runtime.graphs is 2: true or false"),
        ("seed=-1", "seed must be at least 0"),
        ("modle=tiny", r"unknown key 'modle': did you mean 'model'\?"),
        ("+foo=1", "unknown key 'foo'"),
        ("model.vlm.widht=3", r"did you mean 'model.vlm.width'\?"),
        ("env.adapt_to_pie=true", r"did you mean 'env.adapt_to_pi'\?"),
        ("num_steps=few", "num_steps: .*'few'"),
        ("num_steps=0", "num_steps must be at least 1"),
        ("device=gpu", "device=gpu is none of cpu, cuda, cuda:N"),
        ("name=''", "name= must not be empty"),
        ("name=null", "name"),
        ("~broker", "broker"),
        ("default_prompt='pick it' up", r"cannot be read: .* needs quotes, .default_prompt="),
        ("policy.words=a!", r"policy.words=a! cannot be read: .* quotes, ['\"]policy.words=.*a!"),
    ],
)
def test_a_workers_mistake_is_one_line_that_names_it(override: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        worker("env=aloha_sim", "model=tiny", override)
    assert "\n" not in str(caught.value)


def test_a_mistake_beside_a_policy_of_ones_own() -> None:
    with pytest.raises(ConfigError, match="unknown key 'foo'"):
        worker("policy={_target_: my_lab.Policy}", "foo=1")


@pytest.mark.parametrize(
    "prompt",
    [
        "pick it up, then fold it",
        "open the robot's hand",
        "open 'it' \\' now\\",
        'the right Größe (it) ! & # ; = " ~ {a} [b] 10% $5',
        "pick (it)",
        "range(1,3)",
        "機を取る",
    ],
)
def test_prompts_need_no_quotes_of_hydra(prompt: str) -> None:
    assert worker("env=aloha", f"default_prompt={prompt}").default_prompt == prompt
    assert worker("env=aloha", f"++env.default_prompt={prompt}").env.default_prompt == prompt


LIKE_SOMETHING_ELSE = [
    *("1.10", "1e5", "007", "0x10", "1_000", "-5", "inf", "nan", "12:30", ""),
    *("true", "Yes", "off", "Null", "NULL", "none", "~", "-", "?"),
    *("[a]", "[1,2]", "{a: 1}", "a,b", "a: b", "a=b", "#x", "x #y", "%", "*", "@x", "!x", "|"),
    *("choice(a,b)", "range(1,3)", "glob(*)", "str(1)", "int(1.0)", "sort(b,a)", "shuffle(1,2)"),
    *(r"a\, b", r"C:\new\table", "a\\", "\\", "it's", 'a "b"', "`x`", "$5", "$", "$(x)"),
    *(" a ", "a\tb", "a\nb", "é", "機", "gs://bucket/pi0?x=1&y#z", "/data/a b|c"),
]


TEXTS = ("env.asset_id", "default_prompt", "checkpoint", "download.cache_dir", "key")


@pytest.mark.parametrize("first", range(0, len(LIKE_SOMETHING_ELSE), len(TEXTS)))
def test_a_text_arrives_as_it_was_typed(first: int) -> None:
    typed = dict(zip(TEXTS, LIKE_SOMETHING_ELSE[first:], strict=False))
    prefix = "++" if first % 2 else ""
    config = worker(*(f"{prefix}{key}={text}" for key, text in typed.items()))
    assert {key: operator.attrgetter(key)(config) for key in typed} == typed


@pytest.mark.parametrize("text", LIKE_SOMETHING_ELSE)
def test_hydra_is_told_that_it_is_a_text(text: str) -> None:
    keys = [
        ("worker", WorkerConfig, key) for key in (*TEXTS, "name", "env.robot", "policy._target_")
    ]
    for name, schema, key in [*keys, ("broker", BrokerConfig, "keys")]:
        (override,) = as_hydra_takes_them(name, schema, [f"{key}={text}"])
        value = OverridesParser.create().parse_override(override).value()
        assert (type(value), value) == (str, text)
    assert broker(f"keys={text}", "frontend=tcp://127.0.0.1:9").keys == text


@pytest.mark.parametrize("name", ["1.10", "1e5", "007", "true", "[a]"])
def test_a_name_arrives_as_it_was_typed(name: str) -> None:
    assert worker(f"name={name}").name == name


@pytest.mark.parametrize("text", ["1.10", "1e5", "[a]", "true"])
def test_a_text_of_a_policy_arrives_as_it_was_typed(text: str) -> None:
    policy = worker("env=aloha", f"policy.checkpoint={text}", f"policy._target_={text}").policy
    assert (policy["checkpoint"], policy["_target_"]) == (text, text)
    assert worker("env=aloha", "policy=noop", "policy.time_s=1e-3").policy["time_s"] == 1e-3


def test_a_robot_of_ones_own_is_named_as_it_was_typed() -> None:
    with pytest.raises(ValueError, match=r"env.robot=1e5 is none of"):
        worker("env=aloha", "env.robot=1e5")


def test_a_file_that_has_a_number_for_a_text_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(FOLDER, tmp_path / "conf")
    lines = (tmp_path / "conf" / "env" / "aloha.yaml").read_text()
    (tmp_path / "conf" / "env" / "007.yaml").write_text(lines.replace("name: aloha", "name: 1.10"))
    monkeypatch.setattr("conf.compose.FOLDER", tmp_path / "conf")
    monkeypatch.setattr("conf.overrides.FOLDER", tmp_path / "conf")
    with pytest.raises(ConfigError, match=r"env.name is 1.1: a text is expected, .* quotes"):
        worker("env=007")
    assert worker("env=007", "env.name=1.10").env.name == "1.10"


def test_null_is_nothing_where_nothing_may_be() -> None:
    assert broker("keys=null").keys is None
    assert worker("env=aloha", "checkpoint=null").checkpoint is None
    assert worker("env=aloha", "checkpoint='null'").checkpoint == "null"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["--env", "aloha"], "env=aloha"),
        (["env", "aloha"], "env=aloha"),
        (["env=aloha", "--default-prompt", "fold it"], "'default_prompt=fold it'"),
        (["device=cpu", "--model.vlm.depth", "3"], "model.vlm.depth=3"),
        (["--recpie", "droid_pi05"], "recipe=droid_pi05"),
        (["--env", "--model"], "env=VALUE"),
        (["model"], "model=VALUE"),
    ],
)
def test_the_form_of_the_scripts_is_answered_with_the_right_one(
    words: list[str], meant: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"did you mean {meant}?")):
        worker(*words)


@pytest.mark.parametrize(
    ("quoted", "prompt"),
    [
        ("'pick it up, then fold it'", "pick it up, then fold it"),
        ('"open the robot\'s hand"', "open the robot's hand"),
        (r'"\"Open\" it"', '"Open" it'),
    ],
)
def test_prompts_may_have_quotes_of_hydra(quoted: str, prompt: str) -> None:
    assert worker("env=aloha", f"default_prompt={quoted}").default_prompt == prompt


def test_what_hydra_reads_by_itself_it_reads() -> None:
    assert worker("env=aloha_towel", "default_prompt=null").default_prompt is None
    assert worker("env=aloha", "default_prompt=${name}").default_prompt == "aloha"


def test_a_value_that_the_shell_took_apart_is_told_whole() -> None:
    with pytest.raises(ConfigError, match=r"'it' is not KEY=VALUE: .* 'default_prompt=pick it up'"):
        worker("env=aloha", "default_prompt=pick", "it", "up", "device=cpu")


@pytest.mark.parametrize("others", [("env=libero",), ("model=tiny",), ("env=droid", "model=pi0")])
def test_a_policy_of_ones_own_gets_its_own_keys_and_no_others(others: tuple[str, ...]) -> None:
    config = worker(*others, "policy={_target_: my_lab.policies.Upright, height: 0.3}")
    target = {"_target_": "my_lab.policies.Upright", "_convert_": "object"}
    assert config.policy == {**target, "height": 0.3}


def test_keys_of_a_policy_can_be_set_one_by_one() -> None:
    assert worker("policy=noop", "policy.time_s=0.5").policy["time_s"] == 0.5


@pytest.mark.parametrize("name", ["broker", "worker"])
def test_help_shows_every_key_with_its_comment(name: str) -> None:
    text = usage(name)
    lines = text.splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r" *\w+: ?", line)]
    assert len(keys) > 8
    assert (FOLDER / f"{name}.yaml").read_text().strip() in text


def test_help_lists_the_choices_of_every_group() -> None:
    text = usage("worker")
    for group in ("env", "model", "policy", "recipe", "runtime"):
        (listed,) = re.findall(rf"^  {group}=\{{(.+)\}}$", text, re.MULTILINE)
        assert set(listed.split(",")) == {file.stem for file in (FOLDER / group).glob("*.yaml")}


@dataclass
class _Ours:
    """Settings of which one has the name of a group, as a rollout's has."""

    policy: str | None = None
    words: list[str] = field(default_factory=list)


def test_a_setting_may_have_a_groups_name_and_a_list_may_hold_settings() -> None:
    named = named_as_groups("broker", _Ours, ["policy=aloha", "words=[a]", "+policy=b"])
    assert named == ({"policy": "aloha"}, ["words=[a]", "+policy=b"])
    assert named_as_groups("broker", _Ours, ["policy=null"]) == ({"policy": None}, [])
    assert named_as_groups("worker", WorkerConfig, ["policy=echo"]) == ({}, ["policy=echo"])
    words = ["words=[a=b, 'c=d, e', f={g: 1, h: 2}, i]"]
    (override,) = as_hydra_takes_them("broker", _Ours, words)
    assert override == "words=['a=b','c=d, e','f={g: 1, h: 2}',i]"


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    broker()
    worker()
    assert list(tmp_path.iterdir()) == []
