"""`python -m broker.gateway` as a shell or a service manager meets it."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from broker.gateway.__main__ import CANNOT_BIND, MISCONFIGURED
from scripts.local.processes import Process
from tests.broker.gateway.site import Site
from tests.e2e.stack import WAIT_S, eventually


def ended(process: Process) -> tuple[int | None, str]:
    code = process.wait(WAIT_S)
    return code, process.log.read_text()


def test_a_taken_port_is_told(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        for section in ("openpi", "http"):
            running = site.gateway(f"{section}.listen={listen}")
            code, log = ended(running.process)
            assert code == CANNOT_BIND, log
            assert "Choose another port" in log
            assert "Traceback" not in log


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("openpi.listen=0.0.0.0:8003", "open to other machines"),
        ("api_keys=/nowhere/keys.json", "no key file"),
        ("key=/nowhere/gateway.key", "no key file"),
        ("openpi.mapping=nothing", "no mapping 'nothing'"),
    ],
)
def test_a_setting_that_cannot_be_ends_it_with_the_reason(
    site: Site, setting: str, reason: str
) -> None:
    code, log = ended(site.gateway(setting, sections=()).process)
    assert code == MISCONFIGURED, log
    assert reason in log
    assert "Traceback" not in log


def test_a_mapping_of_an_api_key_that_is_not_there_is_told_at_the_start(site: Site) -> None:
    path = site.stack.folder / "keys.json"
    path.write_text('{"arm": {"api_key": "a-key-of-enough-signs", "mapping": "nothing"}}')
    path.chmod(0o600)
    code, log = ended(site.gateway(f"api_keys={path}").process)
    assert code == MISCONFIGURED, log
    assert "no mapping 'nothing'" in log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_though_clients_wait(site: Site, number: signal.Signals) -> None:
    site.stack.broker()
    worker = site.stack.gate()
    worker.wait_ready()
    running = site.gateway()
    running.process.wait_ready()
    with running.connect(robot=None) as client:
        client.send({"tag": 1})
        eventually(lambda: site.stack.is_inside(worker), "it has begun")
        os.kill(running.process.pid, number)
        code, log = ended(running.process)
    assert code == 0, log
    assert "stopped" in log
    assert "Traceback" not in log
