"""`python -m scripts.page_shots`: the gateway's page in eight states, as a browser shows it.

Starts a broker, workers, a gateway, a hundred robots and a headless Chromium, saves
docs/images/page_*.png, and prints what the gateway's process costs meanwhile.
"""

from __future__ import annotations

from conf.flags import Flags, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import contextlib
import logging
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np

from client import ZmqPolicyClient
from client.errors import PolicyError
from scripts.local.processes import Process, Processes
from scripts.page_shots import site
from scripts.page_shots.browser import Browser
from scripts.page_shots.robots import HZ, ROBOTS, fleet, robot_name
from scripts.page_shots.site import Site


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
            _take(processes, browser, Path(folder))
        finally:
            browser.close()
    return 0


def _take(processes: Processes, browser: Browser, folder: Path) -> None:
    one = site.start(processes, "one")
    browser.show(one.url)
    browser.until("document.getElementById('broker').textContent.includes('up')")
    browser.save("page_empty")
    with fleet(processes, one):
        _busy(browser, one.gateway, one.url)
        _failing(browser, one)
    teams = folder / "teams.yaml"
    teams.write_text(_teams())
    two = site.start(processes, "two", 2, f"fairness.teams={teams}")
    with fleet(processes, two):
        _two_brokers(browser, two)
    if browser.complaints:
        print("the page complained:", *browser.complaints, sep="\n")


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


def _failing(browser: Browser, one: Site) -> None:
    wrong = {"nothing_such": 1.0, "slow": 0.05}
    for policy, deadline_s in wrong.items():
        with (
            ZmqPolicyClient(one.frontends, policy=policy, robot="lost-arm") as robot,
            contextlib.suppress(PolicyError),
        ):
            robot.infer({"state": np.zeros(14)}, deadline_s=deadline_s)
    browser.show(one.url)
    browser.until("document.querySelectorAll('#errors li').length > 1")
    one.brokers[0].kill()
    browser.until("!document.getElementById('trouble').hidden")
    browser.save("page_failing")


def _teams() -> str:
    """Two teams, as `fairness.teams` reads them: without keys, by what robots call themselves."""
    names = [robot_name(number)[0] for number in range(ROBOTS)]
    picking = ", ".join(name for name in names if name.startswith("aloha"))
    nightly = ", ".join(name for name in names if name.startswith("droid"))
    return (
        f"picking: {{members: [{picking}], weight: 2}}\n"
        f"night-runs: {{members: [{nightly}], traffic: evaluation, max_share: 0.5}}\n"
    )


def _two_brokers(browser: Browser, two: Site) -> None:
    """The second of two brokers is chosen by its button, and shown when the first was killed."""
    buttons = "[...document.querySelectorAll('#brokers button')]"
    browser.show(two.url, height=1400)
    browser.until(f"{buttons}.length === 2")
    browser.until("document.querySelectorAll('#teams tr').length >= 2")
    browser.until(f"document.querySelectorAll('#robot-rows tr').length >= {ROBOTS}")
    time.sleep(10.0)  # for the curves to have a beginning
    browser.save("page_teams")
    browser.run(f"{buttons}[1].click()")
    browser.until(f"{buttons}[1].getAttribute('aria-pressed') === 'true'")
    logging.getLogger("client").setLevel(logging.ERROR)  # each robot says that it goes on
    two.brokers[0].kill()
    browser.until(f"{buttons}[0].className.includes('suspect')")
    browser.run(f"{buttons}[1].click()")  # the page chooses by itself again
    browser.until(f"document.querySelectorAll('#robot-rows tr').length >= {ROBOTS - 2}")
    browser.save("page_second_broker")


if __name__ == "__main__":
    run_command(main)
