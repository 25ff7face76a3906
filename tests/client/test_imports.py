"""What a robot imports is light, and old Pythons can read it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPORT = "import sys, {module}; print(*sys.modules)"


@pytest.mark.parametrize("module", ["client", "client.image_tools", "client.errors"])
def test_nothing_heavy_is_imported(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", REPORT.format(module=module)],
        capture_output=True,
        text=True,
        check=True,
    )
    imported = set(done.stdout.split())
    assert module in imported
    ours = {name.partition(".")[0] for name in imported} & {"broker", "worker", "conf", "scripts"}
    heavy = imported & {"PIL", "torch", "hydra", "omegaconf", "pickle5"}
    assert not ours | heavy


def test_an_own_client_beside_the_program_fails_as_the_readme_says(tmp_path: Path) -> None:
    (tmp_path / "client.py").write_text("# a robot's own\n")
    (tmp_path / "robot.py").write_text("from client import ZmqPolicyClient\n")
    done = subprocess.run(
        [sys.executable, "robot.py"], cwd=tmp_path, capture_output=True, text=True
    )
    message = "cannot import name 'ZmqPolicyClient' from 'client'"
    assert done.returncode == 1
    assert message in done.stderr
    assert message in " ".join((Path(__file__).parents[2] / "README.md").read_text().split())
