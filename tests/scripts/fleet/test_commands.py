"""What is typed wrong, and what is not there, is told at once: no cluster is needed for these."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conf.overrides import ConfigError
from scripts.fleet.__main__ import main, read
from scripts.fleet.cluster import why_pending
from scripts.fleet.commands import broker_words, worker_words
from scripts.fleet.demand import demand_of
from scripts.fleet.scaling import Demand
from tests.scripts.fleet.machines import ROOT

GOOD = """
policies:
  aloha: {worker: [env=aloha], min: 0, max: 4}
  "droid": {worker: [env=droid, checkpoint=/checkpoints/one]}
"""


def fleet(folder: Path, text: str) -> str:
    file = folder / "fleet.yaml"
    file.write_text(text)
    return f"file={file}"


def test_a_file_and_the_command_line_are_put_together(tmp_path: Path) -> None:
    config = read([fleet(tmp_path, GOOD), "policies.aloha.max=7", "brokers.main.frontend=8100"])
    config.check_commands()
    assert (config.policies["aloha"].min, config.policies["aloha"].max) == (0, 7)
    assert config.policies["droid"].worker == ["env=droid", "checkpoint=/checkpoints/one"]
    assert config.brokers["main"].frontend == 8100


def test_a_version_is_told_to_the_workers_and_to_the_broker(tmp_path: Path) -> None:
    text = 'policies: {aloha: {version: "2", worker: [env=aloha]}, droid: {worker: [env=droid]}}'
    config = read([fleet(tmp_path, text)])
    config.check_commands()
    broker = "broker=tcp://127.0.0.1:8001"
    assert worker_words(config, "aloha") == ["env=aloha", "name=aloha", "version=2", broker]
    assert worker_words(config, "droid") == ["env=droid", "name=droid", broker]
    assert "policies=[aloha@2,droid]" in broker_words(config, "main")
    assert [config.served(name) for name in config.policies] == ["aloha@2", "droid"]


def test_brokers_of_a_file_take_the_place_of_the_default(tmp_path: Path) -> None:
    text = f"{GOOD}\nbrokers: {{a: {{}}, b: {{frontend: 8010, backend: 8011}}}}"
    assert list(read([fleet(tmp_path, text)]).brokers) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("polices: {}", "unknown key 'polices': did you mean 'policies'?"),
        (GOOD + "scaling: {idle: 3}", "did you mean 'scaling.idle_s'?"),
        ("policies: {aloha: {wroker: []}}", "unknown key policies.aloha.wroker: did you mean 'w"),
        ("policies: {aloha: {worker: [env=alhoa]}}", "policies.aloha.worker: env=alhoa is not one"),
        ("policies: {aloha: {worker: [policy=echoo]}}", "did you mean 'echo'?"),
        ("policies: {aloha: {worker: [checkpoit=/x]}}", "did you mean 'checkpoint'?"),
        ("policies: {aloha: {worker: [name=x]}}", "the fleet itself says that"),
        ("policies: {aloha: {worker: [version=2]}}", "the fleet itself says that"),
        ("policies: {aloha: {version: 2@3}}", "policies.aloha.version is '2@3'"),
        ("policies: {aloha: {worker: env=aloha}}", "a list is expected"),
        ("policies: {aloha: {min: 3, max: 2}}", "min is 3 and max is 2"),
        ("policies: {aloha: {num_gpus: -1}}", "num_gpus is -1"),
        ("policies: {aloha: 3}", "policies.aloha is 3: its keys are"),
        ("policies: [aloha]", "policies is ['aloha']"),
        ("policies: {'a b': {}}", "letters, digits"),
        ("policies: {}", "policies has none"),
        (GOOD + "brokers: {main: {host: 10.0.0.5}}", "brokers.main.settings: frontend="),
        (GOOD + "brokers: {main: {frontend: 8001}}", "the same port"),
        (GOOD + "brokers: {a: {}, b: {}}", "brokers.b and brokers.a both have port 8000 of 127."),
        (GOOD + "brokers: {a: {}, b: {frontend: 8001, backend: 9}}", "both have port 8001"),
        (GOOD + "brokers: {}", "brokers has none"),
        (GOOD + "ray: {object_store_mb: 1}", "no less than 75"),
        (GOOD + "name: a/b", "name is 'a/b'"),
        ("- a list", "has no settings"),
        ("a: [", "cannot be read"),
        ("defaults: [broker]", "unknown key 'defaults'"),
    ],
)
def test_a_wrong_file_is_told_with_its_key(
    tmp_path: Path, text: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["up", fleet(tmp_path, text)]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("statsu", "did you mean 'status'?"),
        ("up file=/no/such.yaml", "/no/such.yaml cannot be read"),
        ("up file=a file=b", "given twice"),
        ("scale policy=aloha", "workers= is expected once"),
        ("scale policy=aloha workers=-1", "workers=-1"),
        ("scale policy=aloha workers=many", "workers=many"),
        ("logs", "one policy is expected"),
        ("status --nmae x", "no option"),
    ],
)
def test_a_wrong_command_line_is_told(
    line: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(line.split()) == 2
    assert told in capsys.readouterr().err


def test_no_fleet_here(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="the extra `fleet` is not installed")
    assert main(["status", "name=nobody"]) == 3
    assert "no fleet named 'nobody' was started on this machine" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["", "10.0.0.5", "ray://10.0.0.5:10001", "host:port"])
def test_an_address_of_another_form(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="the extra `fleet` is not installed")
    assert main(["status", f"ray.address={address}"]) == 3
    assert "HOST:PORT is expected" in capsys.readouterr().err or not address


def test_nobody_at_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("ray", reason="the extra `fleet` is not installed")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        assert main(["status", f"ray.address=127.0.0.1:{unused.getsockname()[1]}"]) == 3
    assert "no Ray at ray.address=127.0.0.1" in capsys.readouterr().err


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "scripts.fleet", *words],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def test_something_other_than_ray_at_the_address() -> None:
    pytest.importorskip("ray", reason="the extra `fleet` is not installed")
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]
        done = run("status", f"ray.address=127.0.0.1:{port}", "ray.timeout_s=1")
    assert done.returncode == 3
    assert "did not answer within 1 s: is it Ray that listens there" in done.stderr


def test_ray_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'ray'\", name='ray')"
    )
    done = run("status", PYTHONPATH=str(tmp_path))
    assert done.returncode == 3
    assert "pip install 'zmq-policy-broker[fleet]'" in done.stderr


def node(labels: dict[str, str], **resources: float) -> dict[str, object]:
    return {"Alive": True, "Labels": labels, "Resources": resources}


@pytest.mark.parametrize(
    ("resources", "labels", "told"),
    [
        ({"num_gpus": 2}, {}, "it wants num_gpus=2, and no machine has more than 1 (2 in all)"),
        ({"num_gpus": 1}, {}, "it wants num_gpus=1, and 0 of 2 in all are free"),
        ({"num_gpus": 1}, {"zone": "b"}, "it wants num_gpus=1, and no machine has more than 0"),
        ({"arm": 1}, {}, "it wants arm=1, and no machine has more than 0"),
        ({"num_cpus": 1}, {"zone": "c"}, "no machine has the labels zone=c; there are 3"),
        ({"num_cpus": 1}, {}, "Ray starts a process for it"),
    ],
)
def test_what_is_missing_is_named(
    resources: dict[str, float], labels: dict[str, str], told: str
) -> None:
    nodes = [node({}, CPU=4, GPU=1), node({"zone": "a"}, CPU=4, GPU=1), node({"zone": "b"}, CPU=4)]
    wanted = {"resources": resources, "labels": labels}
    assert told in why_pending(wanted, nodes, {"CPU": 3.0})


def test_the_demand_at_several_brokers_is_put_together() -> None:
    row: dict[str, Any] = {
        "waiting": 2,
        "wait_ms": 100.0,
        "asked_s_ago": None,
        "workers": 2,
        "ready": 2,
        "slots": 2,
        "in_hand": 1,
    }
    other = {**row, "wait_ms": 50.0, "asked_s_ago": 3.0, "ready": 1, "slots": 1}
    reports: list[dict[str, Any]] = [
        {"demand": {"aloha": row}},
        {"demand": {"aloha": other}},
        {"demand": {}},
    ]
    assert demand_of(reports, "aloha") == Demand(4, 0.1, 3.0, 2, 2, 2)
    assert demand_of(reports, "droid") is None
    assert demand_of([], "aloha") is None


def test_a_policy_that_the_broker_is_not_told_of_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the fleet itself says that"):
        read([fleet(tmp_path, GOOD + "brokers: {main: {settings: ['policies=[x]']}}")])
