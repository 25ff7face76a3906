"""openpi's own runtime and chunk broker drive our client unchanged, with the numpy they need."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import numpy as np
import pytest

from benchmarks.openpi_venv import ROOT, openpi_environment, openpi_python
from tests.e2e.stack import WAIT_S, Stack
from worker.policies.echo import fingerprint


@pytest.fixture(scope="module")
def report(shared: Stack) -> Any:
    """What `openpi_robot` told of its run with the broker and the echo worker."""
    command = [str(openpi_python()), "-m", "tests.e2e.openpi_robot", str(shared.frontend)]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=openpi_environment(),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_runs_with_the_numpy_that_openpi_needs(report: Any) -> None:
    assert int(report["numpy"].partition(".")[0]) < 2


def echoed(step: int) -> float:
    """What the echo policy makes of that step's observation."""
    return float(fingerprint({"state": np.full(14, step, np.float32), "prompt": "count"}))


def test_chunks_may_overlap_and_none_is_another_episodes(report: Any) -> None:
    for episode in report["overlapping"]["episodes"]:
        assert len(episode) == report["steps"]
        assert episode[0] == echoed(0)
        for step, action in enumerate(episode):
            assert action in {echoed(seen) for seen in range(step + 1)}
    assert report["overlapping"]["shapes"] == [[14]]


@pytest.mark.parametrize("broker", ["theirs", "ours"])
def test_every_step_gets_the_action_of_its_chunk(report: Any, broker: str) -> None:
    asked_at = [step - step % report["horizon"] for step in range(report["steps"])]
    expected = [echoed(step) for step in asked_at]
    assert report[broker]["episodes"] == [expected, expected]
    assert report[broker]["shapes"] == [[14]]
    assert {"actions", "policy_timing", "server_timing"} <= set(report[broker]["fields"])
    assert report[broker]["metadata"]["model"] == "echo"


def test_images_are_the_same_to_the_last_bit(report: Any) -> None:
    assert report["images"] == []
