"""Lines in the log, or a bar on a terminal."""

import logging
import os
import pty
import subprocess
import sys
from types import SimpleNamespace

import pytest

from worker.checkpoints.download.progress import Progress

BAR = """
from worker.checkpoints.download.progress import Progress
with Progress("gs://bucket/model", 2_000_000, 500_000) as progress:
    progress.advance(1_500_000)
"""


def test_lines_come_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 1.0, 11.0, 12.0])
    monkeypatch.setattr(
        "worker.checkpoints.download.progress.time", SimpleNamespace(monotonic=clock.__next__)
    )
    with caplog.at_level(logging.INFO), Progress("model", 4_000_000_000) as progress:
        progress.advance(1_000_000_000)
        progress.advance(1_000_000_000)
        progress.advance(1_000_000_000)
    assert [record.getMessage() for record in caplog.records] == [
        "model: 2.0 of 4.0 GB, 50 %, 182 MB/s"
    ]


def test_a_terminal_shows_a_bar() -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run([sys.executable, "-c", BAR], stderr=theirs, timeout=60, check=True)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "gs://bucket/model" in shown
    assert "2.0/2.0 MB" in shown
