"""`python -m tests.simulation` says what went wrong, and how it ended by its exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from broker.leases import Leases
from tests.e2e.stack import WAIT_S, eventually
from tests.simulation import __main__ as simulate
from tests.simulation.violation import Violation
from tests.simulation.world import Outcome, World


def test_clean_seeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate.main(["--seeds", "5", "--start", "40"]) == simulate.CLEAN
    printed = capsys.readouterr().out
    assert "5 seeds are clean" in printed
    assert "result" in printed


def test_a_failure_is_printed_as_a_test_that_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Leases, "trust_again", lambda self, worker: None)
    assert simulate.main(["--seeds", "100"]) == simulate.VIOLATED
    printed = capsys.readouterr().out
    assert "invariant 5" in printed
    source = printed[printed.index("from tests.") : printed.index("    World(schedule).play()\n")]
    names: dict[str, object] = {}
    exec(source + "    World(schedule).play()\n", names)
    (test,) = (each for name, each in names.items() if name.startswith("test_seed_"))
    assert callable(test)
    with pytest.raises(Violation, match="invariant 5"):
        test()


def test_the_first_failing_seed_is_told_whoever_plays_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later batches have failing seeds too, and may be done before."""

    def play(self: World) -> Outcome:
        if self.schedule.seed in (33, 45, 70, 90):
            raise Violation(1, "planted")
        return Outcome(Counter(), 1, 1.0, 1.0, 1, 0)

    monkeypatch.setattr(World, "play", play)
    assert simulate.main(["--seeds", "100", "--jobs", "3"]) == simulate.VIOLATED
    printed = capsys.readouterr().out
    assert "seed 33: invariant 1" in printed
    assert "def test_seed_33() -> None:" in printed


def test_however_many_processes_play_the_figures_are_the_same(tmp_path: Path) -> None:
    told = []
    for jobs in ("1", "3"):
        result = tmp_path / "new" / f"{jobs}.json"
        options = ["--seeds", "50", "--start", "7", "--jobs", jobs, "--result", str(result)]
        assert simulate.main(options) == simulate.CLEAN
        told.append(json.loads(result.read_text()))
    one, three = told
    for key in ("seeds", "events", "simulated_s", "answers", "machine", "first_seed"):
        assert one[key] == three[key]
    assert (one["jobs"], three["jobs"], one["seeds"]) == (1, 3, 50)
    assert one["seeds_a_second"] > 0 < one["seconds"]


def test_ctrl_c_ends_it_at_once_with_a_count() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--seeds", "1000000", "--jobs", "2"]
    # A session of its own is what a terminal gives it: Ctrl-C reaches all of its processes.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        parent_process = psutil.Process(parent.pid)
        eventually(lambda: len(parent_process.children()) == 2, "it has two children")
        children = parent_process.children()
        eventually(lambda: all(sum(each.cpu_times()[:2]) > 0.5 for each in children), "they play")
        os.killpg(parent.pid, signal.SIGINT)
        struck = time.monotonic()
        out, err = parent.communicate(timeout=WAIT_S)
        assert time.monotonic() - struck < 10  # a batch alone would not take so long, but all would
    assert parent.returncode == simulate.INTERRUPTED
    assert "seeds were clean" in out
    assert err == ""
    assert not any(each.is_running() for each in children)


def test_a_process_that_ends_early_is_told(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def play(self: World) -> Outcome:
        raise KeyError("planted")

    monkeypatch.setattr(World, "play", play)
    before = set(psutil.Process().children())
    with pytest.raises(RuntimeError, match=r"seeds range\(0, 20\) ended"):
        simulate.main(["--seeds", "30", "--jobs", "2"])
    assert "KeyError: 'planted'" in capfd.readouterr().err
    assert set(psutil.Process().children()) <= before


@pytest.mark.parametrize(
    "wrong", [["--seeds", "0"], ["--start", "-1"], ["--seeds", "many"], ["--jobs", "0"]]
)
def test_wrong_options_end_with_2(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        simulate.main(wrong)
    assert raised.value.code == 2
