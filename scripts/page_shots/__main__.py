"""`python -m scripts.page_shots`: the gateway's page in five states, as a browser shows it.

Starts a broker, workers, a gateway, a hundred robots and a headless Chromium, saves
docs/images/page_*.png, and prints what the gateway's process costs meanwhile.
"""

from __future__ import annotations

from conf.flags import Flags, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import contextlib
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from client import ZmqPolicyClient
from client.errors import PolicyError
from scripts.local.processes import Process, Processes, free_ports
from scripts.page_shots.browser import Browser
from scripts.page_shots.robots import HZ, ROBOTS, fleet


def main() -> int:
    """Take the pictures; exit code 1 where there is no Chromium."""
    Flags("python -m scripts.page_shots", __doc__).read()
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        print("no chromium: apt install chromium")
        return 1
    with tempfile.TemporaryDirectory() as folder, Processes(Path(folder) / "logs") as processes:
        browser = Browser(processes, program, Path(folder) / "profile")
        try:
            _take(processes, browser)
        finally:
            browser.close()
    return 0


def _take(processes: Processes, browser: Browser) -> None:
    frontend, backend, http, openpi = free_ports(4)
    addresses = (
        f"frontend=tcp://127.0.0.1:{frontend}",
        f"backend=tcp://127.0.0.1:{backend}",
    )
    broker = processes.start("broker", "broker", *addresses)
    gateway = processes.start(
        "gateway",
        "broker.gateway",
        f"broker=tcp://127.0.0.1:{frontend}",
        f"http.listen=127.0.0.1:{http}",
        f"openpi.listen=127.0.0.1:{openpi}",
        "openpi.policy=aloha",
        "deadline_s=5",
    )
    gateway.wait_ready()
    url = f"http://127.0.0.1:{http}/"
    browser.show(url)
    browser.until("document.getElementById('broker').textContent.includes('up')")
    browser.save("page_empty")
    with fleet(processes, frontend, backend, openpi):
        _busy(browser, gateway, url)
        _failing(browser, broker, url, frontend)


def _busy(browser: Browser, gateway: Process, url: str) -> None:
    browser.show(url, height=1400)
    browser.until(f"document.querySelectorAll('#robot-rows tr').length >= {ROBOTS}")
    before, began = gateway.cpu_seconds(), time.monotonic()
    time.sleep(20.0)
    share = (gateway.cpu_seconds() - before) / (time.monotonic() - began)
    print(f"gateway, {ROBOTS} robots at {HZ:g} Hz, a page open: {share:.1%} of one core")
    browser.save("page_busy")
    browser.show(url, height=1400, dark=True)
    browser.until(f"document.querySelectorAll('#robot-rows tr').length >= {ROBOTS}")
    browser.save("page_dark")
    browser.show(url, width=390, height=844)
    browser.until(f"document.querySelectorAll('#robot-rows tr').length >= {ROBOTS}")
    browser.save("page_phone")
    browser.show(url)
    browser.until(f"document.querySelectorAll('#robot-rows tr').length >= {ROBOTS}")
    browser.run(
        "[...document.querySelectorAll('#robot-rows button')]"
        ".find((button) => button.textContent.startsWith('openpi')).click()"
    )
    browser.until("document.querySelectorAll('#robot-actions svg').length > 0")
    browser.save("page_robot")


def _failing(browser: Browser, broker: Process, url: str, frontend: int) -> None:
    wrong = {"nothing_such": 1.0, "slow": 0.05}
    for policy, deadline_s in wrong.items():
        with (
            ZmqPolicyClient("127.0.0.1", frontend, policy=policy, robot="lost-arm") as robot,
            contextlib.suppress(PolicyError),
        ):
            robot.infer({"state": np.zeros(14)}, deadline_s=deadline_s)
    browser.show(url)
    browser.until("document.querySelectorAll('#errors li').length > 1")
    broker.kill()
    browser.until("!document.getElementById('trouble').hidden")
    browser.save("page_failing")


if __name__ == "__main__":
    run_command(main)
