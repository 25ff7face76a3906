"""What a robot imports is light, and old Pythons can read it."""

from __future__ import annotations

import subprocess
import sys

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
