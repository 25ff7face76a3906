"""The programs of `docs/examples` run as they stand there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.openpi_venv import ROOT
from tests.e2e.stack import WAIT_S, Stack

EXAMPLES = ROOT / "docs" / "examples"


def run(*command: object, **environment: str) -> str:
    """What a program prints; it must end well and complain of nothing."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


@pytest.fixture
def libero(stack: Stack) -> Stack:
    """Zeros in the form of LIBERO's policies: ten actions of seven numbers."""
    stack.broker()
    zeros = (
        "{_target_: worker.policies.noop.NoopPolicy, time_s: 0, action_horizon: 10, action_dim: 7}"
    )
    stack.worker("libero", policy=zeros).wait_ready()
    return stack


def test_the_loop_of_libero_and_the_clients_of_other_languages(
    libero: Stack, tmp_path: Path
) -> None:
    loop = run(sys.executable, EXAMPLES / "libero_loop.py", "127.0.0.1", libero.frontend, 7)
    assert loop == "done: False, last action (7,)"
    address = f"tcp://127.0.0.1:{libero.frontend}"
    expected = "result <f4 [10, 7] 70"
    if shutil.which("g++") and Path("/usr/include/zmq.h").exists():
        robot = tmp_path / "robot"
        run("g++", "-std=c++17", "-Wall", "-Werror", EXAMPLES / "robot.cc", "-lzmq", "-o", robot)
        assert run(robot, address) == expected


def test_the_client_in_javascript(libero: Stack) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = ROOT / ".venv-node"
    if not (folder / "node_modules" / "zeromq").exists():
        folder.mkdir(exist_ok=True)
        (folder / "package.json").write_text("{}")
        run(npm, "install", "--silent", "--prefix", folder, "zeromq", "@msgpack/msgpack")
    address = f"tcp://127.0.0.1:{libero.frontend}"
    modules = str(folder / "node_modules")
    found = run("node", EXAMPLES / "robot.js", address, NODE_PATH=modules)
    assert found == "result <f4 [10, 7] 70"


def test_the_loop_of_droid(stack: Stack) -> None:
    stack.broker()
    zeros = (
        "{_target_: worker.policies.noop.NoopPolicy, time_s: 0, action_horizon: 10, action_dim: 8}"
    )
    stack.worker("droid", policy=zeros).wait_ready()
    loop = run(sys.executable, EXAMPLES / "droid_loop.py", "127.0.0.1", stack.frontend, 10)
    assert loop == "10 steps, last action (8,)"


def test_the_loop_of_the_aloha_simulator(stack: Stack) -> None:
    stack.broker()
    stack.worker("aloha_sim", policy="noop").wait_ready()
    loop = run(
        *(sys.executable, "-W", "ignore", EXAMPLES / "aloha_sim.py"),
        *("127.0.0.1", stack.frontend, 3),
        MUJOCO_GL="egl",
    )
    assert loop.endswith("last action (14,)")


def test_a_policy_of_ones_own(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES))
    stack.broker()
    target = "{_target_: own_policy.HoldStill, horizon: 20}"
    stack.worker("still", policy=target).wait_ready()
    state = np.arange(6, dtype=np.float32)
    actions = stack.client().infer({"state": state})["actions"]
    assert np.array_equal(actions, np.tile(state, (20, 1)))
