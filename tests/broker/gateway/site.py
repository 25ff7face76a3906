"""A broker, workers and gateways as real processes, and where each of them listens."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import websockets.sync.client
from websockets.sync.client import ClientConnection

from broker.gateway import arrays
from scripts.local.processes import Process, Processes, free_ports
from tests.e2e.stack import WAIT_S, Stack

KEYS = {  # Api-Keys by the names of their robots
    "arm-1": "a-key-for-the-echo-policy",
    "faulty": "a-key-for-the-faulty-policy",
    "gate": "a-key-for-the-gate-policy",
    "ghost": "a-key-for-no-policy-at-all",
    "ward": "a-key-for-an-operator",
}
POLICIES = {"arm-1": ["echo"], "faulty": ["faulty"], "gate": ["staged"], "ghost": ["ghost"]}


class RunningGateway:
    """A gateway's process, and its ports by the names of the sections in its settings."""

    def __init__(self, process: Process, ports: dict[str, int]) -> None:
        self.process, self.ports = process, ports

    def url(self, path: str = "/", section: str = "openpi", scheme: str = "ws") -> str:
        return f"{scheme}://127.0.0.1:{self.ports[section]}{path}"

    def connect(self, path: str = "/", robot: str | None = "arm-1", **options: Any) -> Client:
        """An openpi client with the Api-Key of a robot."""
        return Client(self, path, None if robot is None else KEYS[robot], **options)

    def get(self, path: str, section: str = "http", robot: str | None = "ward") -> tuple[int, str]:
        """The status and the text of a plain GET."""
        request = urllib.request.Request(self.url(path, section, "http"))
        if robot is not None:
            request.add_header("Authorization", f"Api-Key {KEYS[robot]}")
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


class Client:
    """One WebSocket that speaks as openpi's client does, from what DIALECTS says of it."""

    def __init__(self, gateway: RunningGateway, path: str, key: str | None, **options: Any) -> None:
        headers = {} if key is None else {"Authorization": f"Api-Key {key}"}
        options = {"compression": None, "max_size": None, "open_timeout": WAIT_S, **options}
        self._connection = contextlib.ExitStack()
        self.socket: ClientConnection = self._connection.enter_context(
            websockets.sync.client.connect(gateway.url(path), additional_headers=headers, **options)
        )
        self.metadata = arrays.decode(self._bytes())

    def send(self, observation: Any) -> None:
        self.socket.send(arrays.encode(observation))

    def receive(self) -> Any:
        """The next answer: a text, or what a binary one holds."""
        answer = self.socket.recv(WAIT_S)
        return answer if isinstance(answer, str) else arrays.decode(answer)

    def ask(self, observation: Any) -> Any:
        self.send(observation)
        return self.receive()

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bytes(self) -> bytes:
        found = self.socket.recv(WAIT_S)
        assert isinstance(found, bytes), found
        return found


class Site:
    """A stack of broker and workers, before which gateways are started."""

    def __init__(self, processes: Processes, folder: Path) -> None:
        self.stack = Stack(processes, folder)
        self._processes, self._folder = processes, folder
        self._count = 0

    def gateway(self, *settings: str, sections: tuple[str, ...] = ("http", "openpi")) -> Any:
        """Start a gateway that has these sections of its settings listen; it may not be ready."""
        self._count += 1
        ports = dict(zip(sections, free_ports(len(sections)), strict=True))
        listen = [f"{name}.listen=127.0.0.1:{port}" for name, port in ports.items()]
        process = self._processes.start(
            f"gateway {self._count}",
            "broker.gateway",
            f"broker=tcp://127.0.0.1:{self.stack.frontend}",
            *listen,
            *settings,
        )
        return RunningGateway(process, ports)

    def keys(self) -> str:
        """A file of Api-Keys, one for each of `KEYS`."""
        path = self._folder / "api_keys.json"
        entries: dict[str, dict[str, Any]] = {}
        for name, key in KEYS.items():
            role = {"role": "operator"} if name == "ward" else {"policies": POLICIES[name]}
            entries[name] = {"api_key": key, **role}
        path.write_text(json.dumps(entries))
        path.chmod(0o600)
        return f"api_keys={path}"
