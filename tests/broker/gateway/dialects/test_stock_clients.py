"""The clients of vla-eval and LeRobot, as the package index has them."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.openpi_venv import ROOT
from tests.broker.gateway.site import KEYS, RunningGateway
from tests.e2e.stack import WAIT_S
from worker.policies.echo import fingerprint

PACKAGES = ("vla-eval==0.8.0", "lerobot==0.4.4")
FOLDER = ROOT / ".venv-stock"


def installed() -> Path:
    """The packages without what they depend on: their clients need no more than we have."""
    with Path(__file__).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (FOLDER / "lerobot").exists():
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--target", str(FOLDER), *PACKAGES], check=True, stdout=2)
    return FOLDER


def run(program: str, port: int, folder: Path) -> Any:
    """What a program with a stock client tells."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", f"tests.broker.gateway.dialects.{program}"),
            *(str(port), KEYS["arm-1"]),
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{installed()}"},
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_vla_evals_client_is_served(dialects: RunningGateway, tmp_path: Path) -> None:
    told = run("stock_vla_eval", dialects.ports["vla_eval"], tmp_path)
    assert told["server"]["protocol_version"] == 1
    wanted = fingerprint({"images": {"agentview": np.full((16, 16, 3), 7, np.uint8)}})
    assert told["actions"] == [[[14], float(np.float32(wanted))]] * 2
    assert "seed" in told["error"]


def test_lerobots_client_is_served(dialects: RunningGateway, tmp_path: Path) -> None:
    told = run("stock_lerobot", dialects.ports["lerobot"], tmp_path)
    assert told["started"]
    assert told["sent"]
    assert told["steps"] == list(range(3, 23))
    ours = {
        "images": {"cam_high": np.full((3, 480, 640), 7, np.uint8)},
        "state": np.arange(14, dtype=np.float32),
        "prompt": "fold",
    }
    assert told["first"] == float(np.float32(fingerprint(ours)))
