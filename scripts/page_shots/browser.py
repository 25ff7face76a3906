"""A headless Chromium that shows the page and takes pictures of it."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import time
import urllib.request
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from scripts.local.processes import Processes, free_ports

IMAGES = Path(__file__).parents[2] / "docs" / "images"
_WAIT_S = 30.0


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
