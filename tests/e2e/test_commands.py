"""What the two commands say and return for settings that cannot be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from conf.flags import READER_GONE
from tests.e2e.stack import WAIT_S, Stack


def run(module: str, *settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *settings]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)


@pytest.mark.parametrize(
    ("module", "setting", "words"),
    [
        (
            "broker",
            "frontendd=x",
            "configuration: unknown key 'frontendd': did you mean 'frontend'?",
        ),
        ("broker", "+foo=1", "configuration: unknown key 'foo'; --help lists them all"),
        ("broker", "limits.max_bytes=many", "configuration: limits.max_bytes:"),
        ("broker", "--port", "--port is no option: settings are KEY=VALUE. --help lists them all"),
        ("worker", "--env", "did you mean env=VALUE?"),
        ("worker", "env=alhoa", "configuration: env=alhoa is not one of "),
        ("worker", "modle=tiny", "configuration: unknown key 'modle': did you mean 'model'?"),
        ("worker", "num_steps=0", "configuration: num_steps must be at least 1"),
        ("worker", "broker=nowhere", "broker=nowhere is no address: "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(module: str, setting: str, words: str) -> None:
    done = run(module, *(["policy=noop"] if module == "worker" else []), setting)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("no.such.module.Policy", "No module named 'no'"),
        ("tests.e2e.policies.NoSuchClass", "NoSuchClass"),
        ("tests.e2e.policies.Gate", "missing 1 required positional argument: 'folder'"),
        ("collections.OrderedDict", "has no method infer(dict) -> dict"),
    ],
)
def test_a_policy_that_cannot_be_made_is_exit_code_3(target: str, words: str) -> None:
    done = run("worker", f"policy={{_target_: {target}}}")
    assert done.returncode == 3
    assert f"policy._target_={target}" in done.stderr
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("module", ["broker", "worker"])
def test_help(module: str) -> None:
    done = run(module, "--help")
    assert done.returncode == 0
    assert f"usage: python -m {module}" in done.stdout
    assert done.stderr == ""


def test_a_port_that_is_taken_is_exit_code_3(shared: Stack) -> None:
    done = run(
        "broker",
        f"frontend=tcp://127.0.0.1:{shared.frontend}",
        f"backend=tcp://127.0.0.1:{shared.backend}",
    )
    assert done.returncode == 3
    assert "Is another broker running there?" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("module", ["broker", "worker"])
def test_help_may_be_cut_off_by_its_reader(module: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, "--help"],
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=WAIT_S,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (READER_GONE, b"")
