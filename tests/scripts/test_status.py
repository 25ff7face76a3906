"""The status of a running broker, for people and for programs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from broker.security import Role
from client import ZmqPolicyClient
from client.errors import PolicyError
from conf.flags import READER_GONE
from scripts.keys import make
from scripts.local.processes import Processes, free_ports
from scripts.status import fair_shares, main, render
from tests.e2e.stack import WAIT_S


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A broker's, with one worker that has answered one robot."""
    front, back = free_ports(2)
    with Processes(tmp_path_factory.mktemp("status")) as processes:
        backend = f"tcp://127.0.0.1:{back}"
        ends = (f"frontend=tcp://127.0.0.1:{front}", f"backend={backend}")
        processes.start("broker", "broker", *ends).wait_ready()
        settings = ("env=aloha_sim", "model=tiny", "policy=echo", f"broker={backend}")
        processes.start("worker", "worker", *settings).wait_ready()
        with ZmqPolicyClient("127.0.0.1", front, robot="[red]arm") as client:
            client.infer({"x": 1})
        yield front


def test_json_has_everything(port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--host", "127.0.0.1", "--port", str(port), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    (worker,), (robot,) = status["workers"], status["robots"]
    assert (worker["name"], worker["state"], worker["slots"]) == ("aloha_sim", "ready", 1)
    assert (worker["in_hand"], robot["requests"]) == (0, 1)
    assert worker["heard_ms_ago"] < 1e3 * WAIT_S
    assert robot["name"] == "[red]arm"
    assert status["queues"] == {}
    assert status["latency_ms"]["worker"]["count"] == 1
    assert 0 < status["latency_ms"]["worker"]["p50"] <= status["latency_ms"]["worker"]["max"]
    assert status["counters"]["answered"] == 1
    assert status["counters"]["frontend accepted"] >= 2


def test_tables_show_what_robots_call_themselves(
    port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["--host", "127.0.0.1", "--port", str(port)]) == 0
    shown = capsys.readouterr().out
    assert "[red]arm" in shown  # plain text, no markup
    for word in ("aloha_sim", "ready", "workers", "robots", "queues", "milliseconds", "answered"):
        assert word in shown
    by_policy = shown.partition("milliseconds by policy, last 60 s")[2].splitlines()
    assert by_policy[2].split()[0] == "aloha_sim"
    assert float(by_policy[2].split()[1]) > 0.0


@pytest.mark.parametrize(
    ("terminal", "options", "asked"),
    [
        (True, [], 3),
        (True, ["--no-watch"], 1),
        (True, ["--json"], 1),
        (False, [], 1),
        (False, ["--watch"], 3),
        (False, ["--json", "--watch"], 3),
    ],
)
def test_in_a_terminal_it_is_live_until_ctrl_c(
    port: int, monkeypatch: pytest.MonkeyPatch, terminal: bool, options: list[str], asked: int
) -> None:
    asks: list[dict[str, Any]] = []

    def status(self: ZmqPolicyClient) -> dict[str, Any]:
        if len(asks) == 3:
            raise KeyboardInterrupt
        asks.append(original(self))
        return asks[-1]

    original = ZmqPolicyClient.status
    monkeypatch.setattr(ZmqPolicyClient, "status", status)
    monkeypatch.setattr("scripts.status._INTERVAL_S", 0.01)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    assert main(["--host", "127.0.0.1", "--port", str(port), *options]) == 0
    assert len(asks) == asked


@pytest.mark.parametrize("json_lines", [False, True])
def test_the_watch_goes_on_while_the_broker_is_gone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    json_lines: bool,
) -> None:
    front, back = free_ports(2)
    seen: list[str] = []

    def status(self: ZmqPolicyClient) -> dict[str, Any]:
        self._timeout_s = 0.3 if len(seen) == 1 else WAIT_S
        if len(seen) == 1:
            broker.kill()
        elif seen == ["told", "BrokerUnreachable"]:
            processes.start("again", "broker", *ends).wait_ready()
        elif seen.count("told") == 2:
            raise KeyboardInterrupt
        try:
            answer = original(self)
        except PolicyError as error:
            seen.append(type(error).__name__)
            raise
        seen.append("told")
        return answer

    original = ZmqPolicyClient.status
    monkeypatch.setattr(ZmqPolicyClient, "status", status)
    monkeypatch.setattr("scripts.status._INTERVAL_S", 0.01)
    ends = (f"frontend=tcp://127.0.0.1:{front}", f"backend=tcp://127.0.0.1:{back}")
    with Processes(tmp_path) as processes:
        broker = processes.start("broker", "broker", *ends)
        broker.wait_ready()
        options = ["--json"] if json_lines else []
        assert main(["--host", "127.0.0.1", "--port", str(front), "--watch", *options]) == 0
    assert seen == ["told", "BrokerUnreachable", "told"]
    printed = capsys.readouterr()
    if json_lines:
        assert [set(json.loads(line)) > {"workers"} for line in printed.out.splitlines()] == [
            True
        ] * 2
        assert printed.err.startswith("BrokerUnreachable: ")


def test_a_reader_that_has_enough_ends_it_quietly(port: int) -> None:
    command = [sys.executable, "-m", "scripts.status", "--port", str(port), "--json", "--watch"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["workers"]
        process.stdout.close()
        assert process.wait(WAIT_S) == READER_GONE
        assert process.stderr.read() == ""


def test_latencies_and_counters_come_first_and_lists_share_the_rest_of_the_screen() -> None:
    worker = dict.fromkeys(
        ("name", "id", "state", "slots", "in_hand", "mean_ms", "heard_ms_ago"), 1
    )
    robot: dict[str, object] = dict.fromkeys(
        ("name", "key", "id", "policy", "requests", "waiting", "in_hand"), "r" * 40
    )
    robot |= {"seen_s_ago": 1.0}
    status: dict[str, Any] = {"version": "1", "uptime_s": 5.0, "window_s": 60.0}
    status |= {"workers": [worker] * 3, "workers_in_all": 3, "robots": [robot] * 200, "queues": {}}
    status |= {"latency_ms": {"worker": dict.fromkeys(("p50", "p95", "max", "count"), 77.5)}}
    status |= {"counters": {f"counter {number}": number for number in range(12)}}
    console = Console(width=80, height=24)
    lines = [
        "".join(segment.text for segment in line)
        for line in console.render_lines(render(status, console, "this is old"))
    ]
    assert len(lines) == 24
    assert "this is old" in lines[0]
    assert "77.5" in "".join(lines[:5])
    assert "counter 11 11" in "".join(lines[:12])
    assert sum("rrr" in line for line in lines) > 3
    assert "of 200 left out" in "".join(lines)


@pytest.mark.parametrize(
    ("wanted", "lines", "shares"),
    [
        ([], 20, []),
        ([2, 300], 20, [2, 14]),
        ([300, 300, 300], 20, [5, 5, 4]),
        ([3, 3], 20, [3, 3]),
        ([3, 3], 2, [0, 0]),
    ],
)
def test_no_list_takes_all_of_the_screen(wanted: list[int], lines: int, shares: list[int]) -> None:
    assert fair_shares(wanted, lines) == shares


def test_a_broker_that_is_not_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scripts.status._TIMEOUT_S", 0.3)
    assert main(["--host", "127.0.0.1", "--port", str(free_ports(1)[0])]) == 1
    assert "BrokerUnreachable" in capsys.readouterr().err


def test_a_wrong_key_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--key", str(tmp_path / "none.key")]) == 1
    assert "none.key" in capsys.readouterr().err


def test_with_keys_only_an_operator_sees_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    keys, (front, back) = tmp_path / "keys", free_ports(2)
    boss, arm = make(keys, "boss", Role.operator, []), make(keys, "arm", Role.robot, [])
    ends = (f"frontend=tcp://127.0.0.1:{front}", f"backend=tcp://127.0.0.1:{back}")
    with Processes(tmp_path / "logs") as processes:
        processes.start("broker", "broker", *ends, f"keys={keys}").wait_ready()
        there = ["--host", "127.0.0.1", "--port", str(front), "--json"]
        assert main([*there, "--key", str(boss)]) == 0
        assert json.loads(capsys.readouterr().out)["workers"] == []
        assert main([*there, "--key", str(arm)]) == 1
        assert "operator" in capsys.readouterr().err


def test_help_tells_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "Exit codes" in capsys.readouterr().out


def test_what_is_not_shown_is_told() -> None:
    status: dict[str, Any] = {"version": "1", "uptime_s": 5.0, "window_s": 60.0}
    status |= {"workers": [], "workers_in_all": 7, "robots": [], "queues": {"aloha": 3}}
    status |= {"latency_ms": {}, "counters": {}}
    console = Console(width=120)
    with console.capture() as capture:
        console.print(render(status))
    assert "7 more workers not shown" in capture.get()
    assert "aloha" in capture.get()
