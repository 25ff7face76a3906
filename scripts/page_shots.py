"""`python -m scripts.page_shots`: the gateway's page in five states, as a browser shows it.

Starts a broker, workers, a gateway, a hundred robots and a headless Chromium, saves
docs/images/page_*.png, and prints what the gateway's process costs meanwhile.
"""

from __future__ import annotations

from conf.flags import Flags, interruptible, run_command

if __name__ == "__main__":
    interruptible()

import base64
import contextlib
import itertools
import json
import shutil
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.client import ClientConnection, connect

from client import ZmqPolicyClient
from client.errors import PolicyError
from scripts.local.processes import Process, Processes, free_ports

IMAGES = Path(__file__).parent.parent / "docs" / "images"
ROBOTS, HZ = 100, 2.0
_WAIT_S = 30.0


class Waves:
    """A policy that takes its time and answers with smooth motion, so that plots show some."""

    digest = "waves"

    def __init__(self, time_s: float) -> None:
        self._time_s = time_s
        self.metadata = {"model": "waves", "action_horizon": 50, "action_dim": 14}

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Float64 (50, 14)."""
        time.sleep(self._time_s)
        start = float(np.sum(observation["state"]))
        steps, joints = np.mgrid[0:50, 0:14]
        return {"actions": np.sin(start + steps / 12.0 + joints) * (1 + joints / 7.0)}


class Browser:
    """A headless Chromium, told what to do by its DevTools protocol."""

    def __init__(self, processes: Processes, program: str, folder: Path) -> None:
        (port,) = free_ports(1)
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "about:blank"]
        options = [f"--remote-debugging-port={port}", f"--user-data-dir={folder}"]
        processes.start_command("chromium", [*command[:1], *options, *command[1:]])
        self._open = contextlib.ExitStack()
        self._socket: ClientConnection = self._open.enter_context(
            connect(_page_address(port), max_size=None, ping_interval=None, compression=None)
        )
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []  # of the page, such as exceptions in its scripts
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")

    def show(self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Go to an address with a screen of that size."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[theme])
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression is true.

        Raises:
            TimeoutError: it never is.
        """
        give_up = time.monotonic() + _WAIT_S
        while not self.run(script):
            if time.monotonic() > give_up:
                raise TimeoutError(f"the page never fulfils {script}")
            time.sleep(0.1)

    def save(self, name: str) -> None:
        """Save what is on the screen as docs/images/NAME.png."""
        shot = self.call("Page.captureScreenshot", format="png")
        path = IMAGES / f"{name}.png"
        path.write_bytes(base64.b64decode(shot["data"]))
        print(f"saved {path}")

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol; returns its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(_WAIT_S))
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(answer["params"])[:1000])
            if answer.get("id") == number:
                return answer["result"]

    def close(self) -> None:
        """Hang up; the process is stopped by whoever owns it."""
        self._open.close()


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
    with _fleet(processes, frontend, backend, openpi):
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


@contextlib.contextmanager
def _fleet(processes: Processes, frontend: int, backend: int, openpi: int) -> Iterator[None]:
    """Two policies and a hundred robots, of which two come by openpi's socket."""
    served = {"aloha": 0.004, "droid": 0.006, "slow": 1.0}
    workers = [
        processes.start(
            f"worker {name} {number}",
            "worker",
            f"broker=tcp://127.0.0.1:{backend}",
            f"name={name}",
            f"policy={{_target_: scripts.page_shots.Waves, time_s: {time_s}}}",
        )
        for name, time_s in served.items()
        for number in range(2 if name != "slow" else 1)
    ]
    for worker in workers:
        worker.wait_ready()
    stopping = threading.Event()
    threads = [
        threading.Thread(target=_zmq_robot, args=(number, frontend, stopping))
        for number in range(ROBOTS - 2)
    ]
    threads += [threading.Thread(target=_openpi_robot, args=(openpi, stopping)) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def _zmq_robot(number: int, frontend: int, stopping: threading.Event) -> None:
    policy = ("aloha", "droid")[number % 2]
    name = f"{policy}-{number // 2:02d}"
    with (
        ZmqPolicyClient("127.0.0.1", frontend, policy=policy, robot=name, timeout_s=5.0) as robot,
        contextlib.suppress(PolicyError),
    ):
        while not stopping.wait(1.0 / HZ):
            robot.infer({"state": np.zeros(14, np.float32), "prompt": "fold the towel"})


def _openpi_robot(port: int, stopping: threading.Event) -> None:
    """Speaks openpi's socket, with two cameras that show something."""
    from broker.gateway import arrays

    rows, columns = np.mgrid[0:224, 0:224]
    with connect(f"ws://127.0.0.1:{port}", max_size=None, compression=None) as socket:
        socket.recv()
        for step in itertools.count():
            if stopping.wait(1.0 / HZ):
                return
            wave = 127 + 120 * np.sin((rows + 6 * step) / 30.0) * np.cos(columns / 25.0)
            image = np.stack([wave, rows, columns], axis=-1).astype(np.uint8)
            observation = {
                "images": {"cam_high": image, "cam_wrist": image[::-1, :, ::-1].copy()},
                "state": np.sin(np.arange(14) + step / 10.0),
                "prompt": "hand the cube over",
            }
            with contextlib.suppress(OSError):
                socket.send(arrays.encode(observation))
                socket.recv()


def _page_address(port: int) -> str:
    give_up = time.monotonic() + _WAIT_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=1.0) as answer:
                pages = json.load(answer)
            return str(next(page["webSocketDebuggerUrl"] for page in pages))
        except (OSError, StopIteration):
            if time.monotonic() > give_up:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    run_command(main)
