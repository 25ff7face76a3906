"""Hosts are made and removed in order, drops are told rightly, and the whole command, briefly."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import pytest

from benchmarks.lan import __main__ as lan
from benchmarks.lan import network
from benchmarks.lan.links import LINKS, Link, LinkError, build_emulator, emulator, netem
from benchmarks.lan.network import Network, leftovers, remove_leftovers
from benchmarks.lan.options import LanPlan, make_plan, parser, usual_congestion
from benchmarks.lan.outage import SCENARIOS, said, served_again, summary, table
from benchmarks.lan.report import Measured, figures, latency_table, ratios, save
from benchmarks.openpi_venv import ROOT
from benchmarks.peers import openpi, ours
from benchmarks.peers.witness import Asked, ask_on
from benchmarks.transport.cells import Cell, Conditions
from benchmarks.transport.observations import Answer
from benchmarks.transport.teams import PEERS, Result
from conf.flags import INTERRUPTED
from scripts.local.processes import ProcessError
from tests.hosts import needs_hosts, no_hosts

ALONE = Conditions(robots=1, pinned=True, size="aloha", rate_hz=50.0)
SLOW = LINKS["100m"]
WAIT_S = 60.0
# The first to ask for openpi's environment makes it.
pytestmark = pytest.mark.timeout(600)


def _no_emulated_links() -> str:
    missing = None if shutil.which("cc") or shutil.which("gcc") else "a C compiler"
    missing = missing or (None if Path("/dev/net/tun").exists() else "/dev/net/tun")
    return no_hosts() or (f"{missing} is needed" if missing else "")


needs_links = pytest.mark.skipif(bool(_no_emulated_links()), reason=_no_emulated_links() or "-")


def plan(*arguments: str) -> LanPlan:
    return make_plan(parser(None).parse_args(arguments))


def hosts(pid: int | None = None) -> set[str]:
    """The run's with this process id, else this one's: other runs make and remove theirs."""
    own = f"lan-{pid or os.getpid()}-"
    listed = network.run(["ip", "netns", "list"]).splitlines()
    return {name for line in listed if (name := line.split()[0]).startswith(own)}


class Recorder:
    """In the place of `network.run`: keeps the commands, and fails those that it is told to."""

    def __init__(self, *failing: str, listed: str = "") -> None:
        self.commands: list[str] = []
        self._failing, self._listed = failing, listed

    def __call__(self, command: Sequence[str]) -> str:
        text = " ".join(command).replace(f"lan-{os.getpid()}-", "")
        self.commands.append(text)
        if any(each in text for each in self._failing):
            raise LinkError(f"{text}: not here")
        return self._listed if text == "ip netns list" else ""

    def having(self, part: str) -> list[str]:
        return [command for command in self.commands if part in command]


def test_everything_is_measured_on_every_link() -> None:
    full = plan()
    assert [link.name for link in full.links] == [link.name for link in LINKS.values()]
    assert full.latency is not None
    assert full.latency.turns() == 8 * 3 * 4  # peers, paces, rounds
    # The last link differs by a setting only.
    assert full.steps() == 4 * full.latency.turns() + 3 * len(SCENARIOS)
    shapes = {(link.rate_mbit, link.delay_ms, link.loss_percent) for link in full.links}
    assert shapes == {(0, 0.0, 0.0), (1000, 0.2, 0.0), (100, 2.0, 0.1)}


def test_what_is_asked_for_wins() -> None:
    chosen = plan("--quick", "--links", "100m", "--rates", "10", "--peers", "openpi", "--unpinned")
    assert [link.name for link in chosen.links] == [SLOW.name]
    assert chosen.latency is not None
    assert (list(chosen.latency.rates_hz), list(chosen.latency.pinned)) == ([10.0], [False])
    assert list(chosen.latency.peers) == ["openpi"]
    assert plan("--only", "drops").latency is None
    assert not plan("--only", "turns").scenarios
    assert plan("--congestion", "bbr").congestion == "bbr"


@pytest.mark.parametrize(("allowed", "chosen"), [("reno cubic\n", "cubic"), ("reno bbr\n", "reno")])
def test_congestion_control_is_what_hosts_have_where_it_may_be_used(
    allowed: str, chosen: str
) -> None:
    assert usual_congestion(allowed) == chosen


@pytest.mark.parametrize("arguments", [["--links", "10g"], ["--rates", "-1"], ["--only", "talk"]])
def test_a_wrong_option_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        lan.main(arguments)
    assert refused.value.code == 2


def test_a_link_is_told_to_netem_and_to_the_emulator() -> None:
    shape = "netem limit 666 rate 100mbit 24 delay 2000us loss 0.1%"
    assert " ".join(netem(SLOW)) == shape
    assert " ".join(netem(LINKS["1g"])) == "netem limit 666 rate 1000mbit 24 delay 200us"
    command = emulator(Path("/x/tunlink"), SLOW, ("a", "b"), 7)
    assert " ".join(command) == "/x/tunlink a b 100 2000 0.1 1000000 7 3600"


def test_without_a_compiler_it_is_said_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LinkError, match="install a C compiler"):
        build_emulator(tmp_path)


def test_netem_is_taken_where_the_kernel_has_it(tmp_path: Path) -> None:
    run = Recorder()
    with Network(SLOW, tmp_path, "reno", run) as built:
        assert built.kind == "veth and netem"
        ends = [line.split(" root ")[0] for line in run.having("netem limit 666")]
    assert len(ends) == len(set(ends)) == 6
    # Before a link is up, packets are as on a wire.
    assert len(run.having("gso_max_segs 1")) == 6


def test_the_hosts_have_addresses_for_each_other_and_their_settings(tmp_path: Path) -> None:
    run = Recorder()
    with Network(LINKS["1g-warm"], tmp_path, "bbr", run) as built:
        site = built.site()
    assert [site.robot.address, site.broker.address, site.worker.address] == [
        *("192.0.2.1", "192.0.2.2", "192.0.2.3"),
    ]
    assert site.worker.inside == ["ip", "netns", "exec", f"lan-{os.getpid()}-worker"]
    address = "ip -n robot address add 192.0.2.1 peer 192.0.2.3/32 dev to-worker"
    assert run.having(address) == [address]
    assert len(run.having(" peer 192.0.2.")) == 6
    assert len(run.having("tcp_congestion_control bbr")) == 3
    assert len(run.having("tcp_slow_start_after_idle 0")) == 3


def test_a_link_is_cut_at_its_far_end_and_mended(tmp_path: Path) -> None:
    run = Recorder()
    with Network(LINKS["unshaped"], tmp_path, "reno", run) as built:
        del run.commands[:]
        built.cut("robot", "worker")
        built.mend("robot", "worker")
        assert run.commands == [
            "ip -n worker link set to-robot down",
            "ip -n worker link set to-robot up",
        ]


@pytest.mark.parametrize(
    "failing", ["netns add worker", "to-worker type veth", "qdisc add dev to-"]
)
def test_what_was_made_is_removed_when_making_the_rest_fails(tmp_path: Path, failing: str) -> None:
    run = Recorder(failing)
    with pytest.raises(LinkError, match="not here"), Network(SLOW, tmp_path, "reno", run):
        raise AssertionError("it was made")
    made = [line.split()[-1] for line in run.having("netns add")]
    removed = [line.split()[-1] for line in run.having("netns delete")]
    assert removed == list(reversed(made))
    assert run.commands[-len(removed) :] == run.having("netns delete")


def test_emulators_end_before_their_hosts_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the measurement is interrupted."""
    script = tmp_path / "emulator"
    script.write_text("#!/bin/sh\necho '{}'\nexec sleep 1000\n")
    script.chmod(0o755)
    monkeypatch.setattr(network, "build_emulator", lambda folder: script)
    monkeypatch.setattr(network, "_TUN", tmp_path)
    monkeypatch.setattr(Network, "_inside", lambda self, host: [])
    alive: list[bool] = []

    def run(command: Sequence[str]) -> str:
        if command[:1] == ["tc"]:
            raise LinkError("qdisc kind is unknown")
        if "delete" in command:
            alive.extend(psutil.pid_exists(pid) for pid in pids)
        return ""

    pids: list[int] = []

    def interrupted() -> None:
        with Network(SLOW, tmp_path, "reno", run) as built:
            assert built.kind == "tunlink"
            pids.extend(child.pid for child in built.site().emulators)
            assert all(psutil.pid_exists(pid) for pid in pids)
            raise KeyboardInterrupt

    monkeypatch.setattr(Network, "_set", lambda *_: None)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert alive == [False] * 9


def test_only_what_dead_runs_left_is_removed() -> None:
    listed = "lan-17-robot (id: 3)\nlan-18-robot\nother-17-x\nlan-17-worker\nplan-17-robot\n"
    assert list(leftovers(listed, lambda pid: pid == 18)) == ["lan-17-robot", "lan-17-worker"]
    run = Recorder("delete", listed=f"lan-{os.getpid()}-robot\nlan-{2**30}-robot\n")
    remove_leftovers(run)
    assert run.having("delete") == [f"ip netns delete lan-{2**30}-robot"]


def test_the_robot_was_answered_late() -> None:
    asked = [Asked(0.8, 0.1), Asked(1.0, 3.4), Asked(4.5, 0.1), Asked(4.6)]
    found = summary("ours", asked, down=1.05, up=3.05, now=4.7, logged={})
    assert found.served_again_s == pytest.approx(4.4 - 3.05)
    assert (found.errors, found.slowest_s, found.hanging_s) == ({}, 3.4, 0.0)


def test_errors_are_counted_until_there_is_an_answer() -> None:
    asked = [
        *(Asked(0.5, 0.1, "Before"), Asked(0.9, 0.3, "DeadlineExceeded")),
        *(Asked(1.3, 0.3, "BrokerUnreachable"), Asked(2.9, 0.3, "BrokerUnreachable")),
        *(Asked(3.3, 0.05), Asked(3.5, 0.1, "Later")),
    ]
    found = summary("ours", asked, down=1.0, up=3.0, now=4.0, logged={})
    assert found.errors == {"DeadlineExceeded": 1, "BrokerUnreachable": 2}
    assert found.served_again_s == pytest.approx(0.35)


def test_a_robot_that_hangs_is_told_so() -> None:
    asked = [Asked(0.8, 0.1), Asked(1.0)]
    assert served_again(asked, up=3.0) is None
    found = summary("openpi", asked, down=1.05, up=3.05, now=24.0, logged={})
    assert (found.served_again_s, found.hanging_s) == (None, 23.0)
    cells = [list(column.cells) for column in table("a link", [found]).columns]
    assert cells[-1] == ["not: one hangs for 23 s"]


class Enough(BaseException):
    """Ends a witness, who would go on for ever."""


@pytest.mark.parametrize(("survives_errors", "connections"), [(True, 1), (False, 3)])
def test_a_witness_notes_errors_and_goes_on(survives_errors: bool, connections: int) -> None:
    outcomes = iter([None, OSError(), None, None, ValueError(), None, Enough()])
    made: list[int] = []

    def ask() -> Answer:
        if (error := next(outcomes)) is not None:
            raise error
        return {}

    def connect() -> Callable[[], Answer]:
        made.append(1)
        return ask

    noted: list[Asked] = []
    with pytest.raises(Enough):
        ask_on(connect, survives_errors, 1000.0, noted)
    assert [each.error for each in noted] == ["", "OSError", "", "", "ValueError", "", ""]
    assert [each.took_s is None for each in noted] == [False] * 6 + [True]
    assert len(made) == connections


def test_what_servers_said_is_told_once_and_without_when() -> None:
    line = "2026-11-25 03:17:14,377 WARNING broker: worker x is suspect: late policy='p' worker='x'"
    found = summary("ours", [], 1.0, 3.0, 4.0, {"broker": [line, line], "worker": []})
    assert list(said(found)) == ["ours: broker: worker x is suspect: late"]


def test_our_stages_add_up() -> None:
    server = {"queue_ms": 1.0, "worker_ms": 9.0, "wait_ms": 0.5}
    server |= {"decode_ms": 2.0, "infer_ms": 3.0, "encode_ms": 0.5}
    client = {"encode_ms": 0.25, "decode_ms": 0.25, "total_ms": 19.0}
    stages = ours.split({"client_timing": client, "server_timing": server}, total_ms=20.0)
    assert stages == {
        "encode": 0.75,
        "queue": 1.5,
        "decode": 2.25,
        "infer": 3.0,
        "broker to worker": 3.0,
        "robot to broker": 9.5,
    }
    assert sum(stages.values()) == 20.0


def test_openpi_tells_the_policys_time() -> None:
    stages = openpi.split({"server_timing": {"infer_ms": 3.0, "prev_total_ms": 50.0}}, 20.0)
    assert stages == {"infer": 3.0, "all else": 17.0}


def cell(*latencies_ms: float) -> Cell:
    """One turn; all but 1 ms of each request was the network's."""
    stages = [{"infer": 1.0, "network": ms - 1.0} for ms in latencies_ms]
    us = [1e3 * ms for ms in latencies_ms]
    return Cell([Result(us, 100.0, {"robot": 1.0}, {"server": 1.0}, 0.0, stages)])


def test_the_usual_request_is_the_one_around_the_median() -> None:
    assert cell(250.0, 5.0, 3.0, 7.0, 4.0).split_ms == {"infer": 1.0, "network": 4.0}
    assert cell(2.0).split_ms == {"infer": 1.0, "network": 1.0}
    assert Cell([Result([1.0], 1.0, {}, {}, 0.0)]).split_ms == {}


def measured(link: Link) -> Measured:
    cells = {
        (ALONE, "ours"): cell(9.0),
        (ALONE, "ours, broker apart"): cell(15.0),
        (ALONE, "openpi"): cell(10.0),
        (ALONE, "raw tcp"): cell(5.0),
    }
    drops = [summary("ours", [Asked(1.0, 3.4)], 1.05, 3.05, 5.0, {"broker": []})]
    return Measured(link, "tunlink", cells, drops)


def test_ratios_are_to_openpi_on_the_same_link() -> None:
    assert ratios([measured(SLOW)]) == [
        f"{SLOW.name}: p50 of ours over openpi's: aloha 451 KB 50 Hz 0.90",
        f"{SLOW.name}: p50 of ours, broker apart over openpi's: aloha 451 KB 50 Hz 1.50",
    ]
    without = measured(SLOW)
    del without.cells[ALONE, "openpi"]
    assert ratios([without]) == []


@pytest.mark.parametrize(
    ("link", "way", "bar"),
    [
        ("1g", "ours, JPEG", 0.45),
        ("100m", "ours, JPEG", 0.25),
        ("100m", "ours, JPEG 75", 0.25),
        ("100m", "ours, broker apart, JPEG", 0.4),
        ("100m", "ours, broker apart, JPEG 75", 0.4),
    ],
)
def test_jpeg_at_10_hz_has_bars(link: str, way: str, bar: float) -> None:
    slow = Conditions(robots=1, pinned=True, size="aloha", rate_hz=10.0)
    for ratio, passes in ((bar - 0.01, True), (bar + 0.01, False)):
        found = Measured(LINKS[link], "veth")
        found.cells = {(slow, way): taking(ratio * 1000.0), (slow, "openpi"): taking(1000.0)}
        (figure,) = figures([found])
        assert figure.value == pytest.approx(ratio)
        assert figure.passes == passes
        assert figures([Measured(LINKS["unshaped"], "veth", found.cells)]) == []


def taking(latency_us: float) -> Cell:
    return Cell([Result([latency_us], 1.0, {}, {}, others_cores=0.0)])


def test_links_are_saved_apart(tmp_path: Path) -> None:
    both = [measured(SLOW), measured(LINKS["1g"])]
    save(tmp_path / "new" / "lan.json", both, "reno")
    saved = json.loads((tmp_path / "new" / "lan.json").read_text())
    assert {(row["link"], row["peer"]) for row in saved["cells"]} == {
        (each.link.name, peer) for each in both for _, peer in each.cells
    }
    assert saved["congestion_control"] == "reno"
    assert saved["cells"][0]["split_ms"] == {"infer": 1.0, "network": 8.0}
    assert [row["served_again_s"] for row in saved["outages"]] == pytest.approx([1.35, 1.35])
    assert {"measured", "machine", "kernel", "packages", "others_cores"} <= saved.keys()
    assert latency_table(both[0]).row_count == 4


def test_without_root_it_is_said_and_nothing_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert lan.main(["--quick", "--json", str(tmp_path / "lan.json")]) == 2
    assert "need root" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_ip_it_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert lan.main(["--quick", "--unpinned", "--json", str(tmp_path / "lan.json")]) == 2
    assert "install iproute2" in capsys.readouterr().err


@needs_hosts
def test_hosts_hear_each_other_unless_the_link_is_cut(tmp_path: Path) -> None:
    with Network(LINKS["unshaped"], tmp_path, "reno") as built:
        assert len(hosts()) == 3
        site = built.site()
        echo = "import socket; s = socket.create_server(('', 7)); print(1, flush=True)\n"
        echo += "while True: s.accept()[0].close()"
        call = "import socket; socket.create_connection(('192.0.2.3', 7), {}).close()"
        with subprocess.Popen(
            [*site.worker.inside, sys.executable, "-c", echo], stdout=subprocess.PIPE
        ) as server:
            assert server.stdout is not None
            server.stdout.readline()

            def calls(timeout_s: float) -> bool:
                calling = [*site.robot.inside, sys.executable, "-c", call.format(timeout_s)]
                return subprocess.run(calling, stderr=subprocess.DEVNULL).returncode == 0

            heard = [calls(WAIT_S)]
            built.cut("robot", "worker")
            heard.append(calls(0.5))
            built.mend("robot", "worker")
            heard.append(calls(WAIT_S))
            server.kill()
        assert heard == [True, False, True]
    assert not hosts()


@needs_links
def test_all_of_it_briefly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.lan.outage.DOWN_S", 1.0)
    monkeypatch.setattr("benchmarks.lan.outage._BEFORE_S", 0.2)
    children = set(psutil.Process().children())
    result = tmp_path / "lan.json"
    where = ["--unpinned"] if len(os.sched_getaffinity(0)) < 2 else []
    assert lan.main(["--quick", "--seconds", "0.05", "--json", str(result), *where]) == 0
    printed = capsys.readouterr().out
    saved = json.loads(result.read_text())
    cells = {(cell["rate_hz"], cell["peer"]): cell for cell in saved["cells"]}
    peers = ("ours", "ours, broker apart", "openpi")
    assert set(cells) == {(rate, peer) for rate in (0.0, 50.0) for peer in peers}
    for cell in cells.values():
        # Nothing is faster than its bytes at 1 Gbit/s, there and back with the delay.
        assert 4000.0 < cell["p50_us"] <= cell["p95_us"] <= cell["p99_us"]
        assert sum(cell["split_ms"].values()) > 4.0
    apart, beside = (
        cells[0.0, peer]["split_ms"]["broker to worker"] for peer in reversed(peers[:2])
    )
    assert apart > 3.6 > 0.0 < beside
    assert [drop["scenario"] for drop in saved["outages"]] == ["ours", "openpi"]
    for drop in saved["outages"]:
        assert drop["slowest_s"] > 0.5 or drop["errors"] or drop["hanging_s"]
    assert printed.strip().splitlines()[-1] == saved["ratios"][-1]
    assert result.with_suffix(".png").stat().st_size > 10_000
    assert not hosts()
    assert set(psutil.Process().children()) <= children


@needs_hosts
def test_a_peer_that_cannot_start_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PEERS, "req/rep", type(PEERS["req/rep"])("no_such_peer"))
    arguments = ["--quick", "--unpinned", "--links", "unshaped", "--peers", "req/rep"]
    assert lan.main([*arguments, "--json", str(tmp_path / "none.json")]) == 3
    assert "no_such_peer" in capsys.readouterr().err
    assert not (tmp_path / "none.json").exists()
    assert not hosts()


@needs_hosts
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_removes_everything(tmp_path: Path, how: signal.Signals) -> None:
    arguments = ["--links", "unshaped", "--peers", "raw tcp", "--unpinned", "--seconds", "30"]
    command = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.lan", *arguments, "--json", str(tmp_path / "lan.json")],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    give_up = time.monotonic() + WAIT_S
    while len(children := psutil.Process(command.pid).children()) < 2:
        assert time.monotonic() < give_up, children
        time.sleep(0.02)
    assert len(hosts(command.pid)) == 3
    command.send_signal(how)
    _, errors = command.communicate(timeout=WAIT_S)
    assert command.returncode == INTERRUPTED
    assert "interrupted" in errors
    assert not psutil.wait_procs(children, timeout=WAIT_S)[1]
    assert not hosts(command.pid)
    assert not list(tmp_path.iterdir())


def test_a_failing_peer_has_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*_: object) -> Measured:
        raise ProcessError("openpi server: exit code 1")

    monkeypatch.setattr(lan, "check", lambda pinned: None)
    monkeypatch.setattr(lan, "_on", fails)
    assert lan.main(["--json", str(tmp_path / "lan.json")]) == 3
    assert "openpi server" in capsys.readouterr().err
