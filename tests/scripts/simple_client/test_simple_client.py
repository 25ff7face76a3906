"""The command line of the simple client, its errors, and a run against real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.local.processes import Processes, free_ports
from scripts.simple_client.__main__ import main, parse


def test_defaults() -> None:
    options = parse([])
    assert (options.env, options.host, options.port) == ("aloha_sim", "localhost", 8000)
    assert (options.steps, options.policy, options.key) == (20, None, None)


def test_every_flag() -> None:
    line = "--env droid --host 10.0.0.2 --port 9000 --steps 3 --policy a=b --key k --seed 7"
    options = parse([*line.split(), "--timeout-s=1.5", "--connect-timeout-s", "2"])
    assert vars(options) == {
        "env": "droid",
        "host": "10.0.0.2",
        "port": 9000,
        "steps": 3,
        "policy": "a=b",
        "key": "k",
        "seed": 7,
        "timeout_s": 1.5,
        "connect_timeout_s": 2.0,
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("env=aloha_sim", "did you mean --env aloha_sim?"),
        ("key=a.key --port 8000", "did you mean --key a.key?"),
        ("timeout_s=2", "did you mean --timeout-s 2?"),
        ("prot=8000", "did you mean --port 8000?"),
        ("--prot 8000", "unknown argument --prot: did you mean --port?"),
        ("--env aloha_sin", "choose from 'aloha', 'aloha_sim', 'droid', 'libero'"),
        ("aloha", "unknown argument aloha"),
        ("--port http", "'http' is not a whole number from 1 to 65535"),
        ("--port 70000", "'70000' is not a whole number from 1 to 65535"),
        ("--timeout-s soon", "'soon' is not a number from 0.001 to 86400"),
        ("--steps 0", "'0' is not a whole number from 1"),
        ("--timeout-s 0", "'0' is not a number"),
        ("--timeout-s nan", "'nan' is not a number"),
    ],
)
def test_wrong_command_lines(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_no_broker_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    assert main(["--port", str(port), "--connect-timeout-s", "0.2"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith("BrokerUnreachable: ")
    assert str(port) in told


def test_a_run_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    front, back = free_ports(2)
    frontend, backend = f"tcp://127.0.0.1:{front}", f"tcp://127.0.0.1:{back}"
    with Processes(tmp_path) as children:
        children.start("broker", "broker", f"frontend={frontend}", f"backend={backend}")
        worker = children.start(
            "worker", "worker", "env=libero", "policy=echo", f"broker={backend}"
        )
        worker.wait_ready()
        address = ["--host", "127.0.0.1", "--port", str(front)]
        assert main(["--env", "libero", "--steps", "3", *address]) == 0
        told = capsys.readouterr().out
        assert "3 requests, libero" in told
        for word in ("client", "network and queue", "worker", "total", "p99"):
            assert word in told
        assert main(["--env", "libero", "--policy", "nobody", *address]) == 1
        assert capsys.readouterr().err.startswith("UnknownPolicy: ")
