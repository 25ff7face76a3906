"""`python -m client --measure`: what it finds on a link, and what it advises."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from client.errors import BadObservation
from client.measuring import Way, _rate, advice, make_observation
from scripts.local.processes import Processes, free_ports

WAIT_S = 60.0


def way(name: str, size: int, network: float, worker: float = 1.0) -> Way:
    stages = {"encode": 1.0, "network": network, "queue": 0.0, "worker": worker, "decode": 0.0}
    total = sum(stages.values())
    return Way(name, size, total, total, stages, 10)


def test_the_links_rate_is_told_by_what_more_bytes_take_longer() -> None:
    # 400 KB more take 32 ms longer: 100 Mbit/s.
    assert _rate([way("raw", 450_000, 40.0), way("jpeg", 50_000, 8.0)]) == pytest.approx(100.0)
    assert _rate([way("raw", 450_000, 1.2), way("jpeg", 50_000, 1.0)]) is None
    assert _rate([way("raw", 450_000, 40.0)]) is None


@pytest.mark.parametrize(
    ("ways", "told"),
    [
        ([way("raw", 450_000, 40.0), way("jpeg", 50_000, 8.0)], 'image_codec="jpeg"'),
        ([way("raw", 450_000, 2.0), way("jpeg", 50_000, 1.9)], "no codec saves"),
        ([way("memory", 500, 1.0), way("raw", 450_000, 2.0)], "images stay in memory"),
        ([way("memory", 500, 9.0), way("raw", 450_000, 2.0)], "shared_memory=False"),
        ([way("raw", 450_000, 2.0, 90.0), way("jpeg", 50_000, 1.0, 90.0)], "is the policy"),
        ([], "let it run longer"),
    ],
)
def test_the_advice_is_one_sentence(ways: list[Way], told: str) -> None:
    assert told in advice(ways)


def test_an_observation_has_the_policys_own_form() -> None:
    form = {
        "state": {"shape": [14], "dtype": "float32 or float64", "optional": False},
        "images": {"cam_high": {"shape": [3, "H", "W"], "dtype": "uint8", "optional": False}},
        "observation/image": {"shape": ["H", "W", 3], "dtype": "uint8", "optional": False},
        "prompt": {"shape": [], "dtype": "str", "optional": True},
    }
    observation = make_observation(form)
    assert observation["state"].shape == (14,)
    assert observation["images"]["cam_high"].shape == (3, 224, 224)
    assert observation["observation/image"].shape == (224, 224, 3)
    assert observation["observation/image"].dtype == np.uint8
    assert isinstance(observation["prompt"], str)


def test_a_form_that_nobody_knows_is_refused_by_name() -> None:
    with pytest.raises(BadObservation, match="camera/depth"):
        make_observation({"camera": {"depth": 7}})


def measure(port: int, *words: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "client",
        "127.0.0.1",
        "--port",
        str(port),
        "--measure",
        *words,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)


def test_a_served_policy_is_measured_by_every_way(tmp_path: Path) -> None:
    port, back = free_ports(2)
    with Processes(tmp_path) as processes:
        ends = (f"frontend=tcp://127.0.0.1:{port}", f"backend=tcp://127.0.0.1:{back}")
        processes.start("broker", "broker", *ends).wait_ready()
        nobody = measure(port, "--seconds", "0.5", "--timeout", "0.5")
        assert (nobody.returncode, nobody.stdout) == (1, "")
        assert "start one" in nobody.stderr
        worker = processes.start(
            *("worker", "worker", "env=aloha_sim", "model=tiny", "runtime.threads=1"),
            f"broker=tcp://127.0.0.1:{back}",
        )
        worker.wait_ready()
        told = measure(port, "--seconds", "0.5", "--json")
        assert told.returncode == 0, told.stderr
        found = json.loads(told.stdout)
        ways = {each["name"]: each for each in found["ways"]}
        assert {"raw", "png", "jpeg"} <= ways.keys()
        assert found["policy"] == "aloha_sim"
        assert ways["raw"]["bytes"] > ways["png"]["bytes"] > ways["jpeg"]["bytes"]
        assert all(0.0 < each["p50_ms"] <= each["p95_ms"] for each in ways.values())
        assert found["advice"]
        shown = measure(port, "--seconds", "0.3")
        assert found["ways"][0]["name"] in shown.stdout
        assert "where it goes" in shown.stdout


@pytest.mark.parametrize("seconds", ["0", "-1", "inf", "nan"])
def test_wrong_seconds_are_refused(seconds: str) -> None:
    refused = measure(9, "--seconds", seconds)
    assert refused.returncode == 2
    assert "--seconds" in refused.stderr
