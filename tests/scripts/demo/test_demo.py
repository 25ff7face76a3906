"""The demo as a person starts it: what it leaves behind, and that it leaves nothing running."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from scripts.demo.__main__ import parse
from scripts.demo.servers import UNANSWERED

PATIENCE_S = 60.0
DEMO = [sys.executable, "-m", "scripts.demo"]


@contextmanager
def running_demo(output: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo in a process group of its own, as a terminal's foreground job is."""
    command = [*DEMO, "--steps", "2000", "--output", str(output)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as demo:
        try:
            yield demo
        finally:
            demo.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll `condition`; fails the test after PATIENCE_S."""
    give_up = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.02)


def family(demo: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(demo.pid).children(recursive=True)


def is_alive(process: psutil.Process) -> bool:
    """Not a zombie either: one that the kernel killed along with the demo waits for init."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def frames_of(video: Path) -> NDArray[np.uint8]:
    """All its frames, (n, 480, 640, 3)."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(video)]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    pixels = subprocess.run([*command, *raw], capture_output=True, check=True).stdout
    return np.frombuffer(pixels, np.uint8).reshape(-1, 480, 640, 3)


@pytest.mark.parametrize("moment", ["starting", "driving"])
def test_ctrl_c_leaves_nothing_running(tmp_path: Path, moment: str) -> None:
    with running_demo(tmp_path) as demo:
        wait_until(lambda: len(family(demo)) >= 3)
        if moment == "driving":
            wait_until((tmp_path / "demo.mp4").exists)
        children = family(demo)
        os.killpg(demo.pid, signal.SIGINT)
        told, _ = demo.communicate(timeout=PATIENCE_S)
        assert demo.returncode == 130
        assert told.rstrip().endswith("stopped")
        assert "Traceback" not in told
        wait_until(lambda: not any(map(is_alive, children)))


def test_sigterm_leaves_nothing_running(tmp_path: Path) -> None:
    with running_demo(tmp_path) as demo:
        wait_until(lambda: len(family(demo)) >= 3)
        children = family(demo)
        demo.terminate()
        demo.communicate(timeout=PATIENCE_S)
        assert demo.returncode == 128 + signal.SIGTERM
        wait_until(lambda: not any(map(is_alive, children)))


def test_a_short_demo(tmp_path: Path) -> None:
    done = subprocess.run(
        [*DEMO, "--steps", "45", "--output", str(tmp_path)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = " ".join(done.stdout.split())
    assert re.search(r"\d+ control steps, \d+ requests answered, \d+ failed", told)
    # An episode as short as this may end before the struck request is answered.
    unanswered = re.escape(UNANSWERED)
    moved = r"The other worker answered that one, \d+ ms after it was made, and the \d+ after it\."
    later = r"That request was answered after \d+ ms, and the \d+ after it were answered too\."
    assert re.search(rf"while it computed the request of step \d+\. ({moved}|{unanswered})", told)
    assert re.search(rf"on the same ports\. ({later}|{unanswered})", told)
    rows = re.findall(r"(worker \d|broker) killed 0 of 4 no no (\d+) (\d+) 0\.\d+ 0\.\d+", told)
    assert [name.split()[0] for name, _, _ in rows] == ["worker", "broker"]
    assert all(int(seams) >= 1 for _, _, seams in rows)
    for stage in ("encode", "network and queue", "transforms", "model", "decode", "total"):
        assert stage in told
    frames = frames_of(tmp_path / "demo.mp4")
    # Of every other control step; steps in which the arms were held come on top.
    held = int(rows[0][1])
    assert len(frames) == (45 + held + 1) // 2
    assert frames[-1].std() > 10
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    assert (tmp_path / "demo-restart.png").stat().st_size > 10_000
    assert (tmp_path / "demo-restart.mp4").exists()
    assert (tmp_path / "logs" / "worker-2.log").exists()


def test_a_command_line_that_makes_no_sense(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--steps", "0"])
    assert ended.value.code == 2
    assert "--steps" in capsys.readouterr().err
