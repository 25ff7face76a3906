"""The command line of the simple client, its errors, and a run against real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.local.processes import Processes, free_ports
from scripts.simple_client.__main__ import Settings, UsageError, main, parse


def test_defaults() -> None:
    assert parse([]) == Settings(env="aloha_sim", host="localhost", port=8000, steps=20)


def test_every_key() -> None:
    line = "env=droid host=10.0.0.2 port=9000 steps=3 policy=a=b seed=7 timeout_s=1.5"
    assert parse([*line.split(), "connect_timeout_s=2"]) == Settings(
        "droid", "10.0.0.2", 9000, 3, "a=b", "", 7, 1.5, 2.0
    )


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("prot=8000", "prot: no such key; did you mean port?"),
        ("env=aloha_sin", "did you mean aloha_sim?"),
        ("env=unitree", "choose one of aloha, aloha_sim, droid, libero"),
        ("aloha", "key=value is expected"),
        ("port=http", "port=http: a whole number is expected"),
        ("timeout_s=soon", "timeout_s=soon: a number is expected"),
        ("port=70000", "from 1 to 65535"),
        ("steps=0", "at least 1"),
        ("timeout_s=0", "more than 0 seconds"),
        ("timeout_s=nan", "more than 0 seconds"),
    ],
)
def test_wrong_command_lines(
    argument: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError) as caught:
        parse([argument])
    assert message in str(caught.value)
    assert main([argument]) == 2
    assert message in capsys.readouterr().err


def test_help_names_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"  {name}=" in told for name in Settings.__dataclass_fields__)


def test_no_broker_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    (port,) = free_ports(1)
    assert main([f"port={port}", "connect_timeout_s=0.2"]) == 1
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
        address = ["host=127.0.0.1", f"port={front}"]
        assert main(["env=libero", "steps=3", *address]) == 0
        told = capsys.readouterr().out
        assert "3 requests, env=libero" in told
        for word in ("client", "network and queue", "worker", "total", "p99"):
            assert word in told
        assert main(["env=libero", "policy=nobody", *address]) == 1
        assert capsys.readouterr().err.startswith("UnknownPolicy: ")
