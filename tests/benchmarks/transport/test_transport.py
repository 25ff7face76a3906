"""The whole command, briefly: all peers take part, and nothing is left running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.figures import Figure
from benchmarks.openpi_venv import ROOT
from benchmarks.transport import __main__ as transport
from benchmarks.transport import loopback
from benchmarks.transport.options import make_plans, parser
from benchmarks.transport.plan import Plan
from benchmarks.transport.teams import PEERS
from conf.flags import INTERRUPTED

WAIT_S = 90.0
# The first to ask for openpi's environment makes it.
pytestmark = pytest.mark.timeout(600)
COMMAND = [sys.executable, "-m", "benchmarks.transport"]


def plans(*arguments: str) -> list[Plan]:
    return make_plans(parser(None).parse_args(arguments))


def plan(*arguments: str) -> Plan:
    (only,) = plans(*arguments)
    return only


def test_all_peers_take_turns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = set(psutil.Process().children())
    result = tmp_path / "transport.json"
    where = ["--unpinned"] if len(os.sched_getaffinity(0)) < 2 else []
    quick = ["--quick", "--seconds", "0.05", "--congestion", "own"]
    arguments = [*quick, "--json", str(result), *where]
    code = transport.main(arguments)
    printed = capsys.readouterr().out
    saved = json.loads(result.read_text())
    cells = {(cell["rate_hz"], cell["peer"]): cell for cell in saved["cells"]}
    assert set(cells) == {(rate, peer) for rate in (0.0, 50.0) for peer in PEERS}
    for (_, peer), cell in cells.items():
        servers = {"broker", "worker"} if peer.startswith(("ours", "sketch")) else {"server"}
        assert cell["resident_mb"].keys() == servers
        assert cell["cpu_us"].keys() == servers | {"robot"}
        assert min(cell["cpu_us"].values()) > 0.0
        assert 0.0 < cell["p50_us"] <= cell["p95_us"] <= cell["p99_us"]
        assert cell["requests"] >= 1
    assert all(peer in printed for peer in PEERS)
    assert set(psutil.Process().children()) <= before
    bars = [figure for figure in saved["figures"] if figure["bar"] is not None]
    assert code == int(not all(Figure(**figure).passes for figure in bars))
    if not where:
        assert len(bars) == 6
        assert printed.strip().endswith(saved["last_line"])


def test_a_peer_that_cannot_start_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(psutil.Process().children())
    monkeypatch.setitem(PEERS, "req/rep", type(PEERS["req/rep"])("no_such_peer"))
    arguments = ["--quick", "--unpinned", "--peers", "raw tcp", "req/rep"]
    assert transport.main([*arguments, "--json", str(tmp_path / "none.json")]) == 3
    assert "no_such_peer" in capsys.readouterr().err
    assert not (tmp_path / "none.json").exists()
    assert set(psutil.Process().children()) <= before


def test_ctrl_c_stops_everything(tmp_path: Path) -> None:
    result = tmp_path / "transport.json"
    arguments = ["--peers", "ours", "raw tcp", "--unpinned", "--clients", "2", "--seconds", "30"]
    arguments += ["--congestion", "own"]
    command = subprocess.Popen(
        [*COMMAND, *arguments, "--json", str(result)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    give_up = time.monotonic() + WAIT_S
    while len(children := psutil.Process(command.pid).children()) < 7:
        assert time.monotonic() < give_up, children
        time.sleep(0.02)
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=WAIT_S)
    assert command.returncode == INTERRUPTED
    assert "interrupted" in errors
    # One that was just being started is ended by the kernel, after its parent.
    assert not psutil.wait_procs(children, timeout=WAIT_S)[1]
    assert not result.exists()


def test_the_figures_that_count_come_first_and_are_measured_longest() -> None:
    full = plan()
    order = [
        conditions
        for robots in full.robots
        for size in full.sizes
        for conditions in full.conditions(robots, size)
    ]
    assert (order[0].robots, order[0].pinned, order[0].rate_hz) == (1, True, 0.0)
    assert full.rounds_of(order[0]) == 6
    assert full.rounds_of(order[-1]) == 2
    assert full.turn(order[0]).seconds == 0.5
    slow = next(conditions for conditions in order if conditions.rate_hz == 10.0)
    assert full.turn(slow).seconds == 1.0
    assert len(order) == 3 * 3 * 3 * 2


def test_what_is_asked_for_wins() -> None:
    headline, crowd = plans("--headline")
    assert (list(headline.robots), list(headline.pinned)) == ([1], [True])
    assert headline.turns() == 3 * 3 * 6 * 6
    assert (list(crowd.robots), list(crowd.pinned), list(crowd.rates_hz)) == ([16], [False], [0.0])
    chosen = plan("--quick", "--sizes", "camera", "--rates", "10", "--peers", "ours", "--unpinned")
    assert (list(chosen.sizes), list(chosen.rates_hz)) == (["camera"], [10.0])
    assert (list(chosen.peers), list(chosen.pinned)) == (["ours"], [False])


def test_the_usual_congestion_control_has_a_loopback_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result, reason = tmp_path / "transport.json", loopback.reason_against()
    before = loopback.own()
    quick = ["--quick", "--seconds", "0.05", "--unpinned", "--rates", "0"]
    peers = ["--peers", "ours", "ours, memory", "ours, JPEG", "sketch"]
    code = transport.main([*quick, *peers, "--congestion", "usual", "--json", str(result)])
    if reason:
        assert code == 2
        assert reason in " ".join(capsys.readouterr().err.split())
        return
    cells = json.loads(result.read_text())["cells"]
    assert {cell["congestion"] for cell in cells} == {loopback.USUAL}
    assert {cell["peer"] for cell in cells} == set(peers[1:])
    assert loopback.own() == before
    named = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    assert f"loopback-{os.getpid()}" not in named.stdout


@pytest.mark.parametrize(
    "arguments",
    [["--clients", "0"], ["--rates", "-1"], ["--pinned", "--unpinned"], ["--peers", "nobody"]],
)
def test_a_wrong_option_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        transport.main(arguments)
    assert refused.value.code == 2
