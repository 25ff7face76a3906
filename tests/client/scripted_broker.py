"""A broker that says only what a test's script tells it to: a real ROUTER on a real port."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import zmq

from client.body import decode_body, encode_body
from client.wire import Header, decode_header, encode_header, receive, split_envelope

Frames = list[bytes]
POLL_MS = 10


@dataclass
class Request:
    """One message of a client, decoded."""

    header: Header
    body: dict[str, Any]

    def reply(self, tree: dict[str, Any], kind: str = "result", **fields: Any) -> Frames:
        """A right answer to it, but for what `fields` change in the header."""
        header = {"v": 1, "kind": kind, "id": self.header["id"], **fields}
        return [encode_header(header), *map(bytes, encode_body(tree))]


NO_DELIMITER: Frames = [b"no", b"delimiter"]
Script = Callable[[Request], Sequence[Frames]]


def echo(request: Request) -> list[Frames]:
    """Answer with `actions` and whatever came under `tag`."""
    return [request.reply({"actions": np.zeros((5, 2)), "tag": request.body.get("tag")})]


def silence(request: Request) -> list[Frames]:
    """Do not answer."""
    return []


def broken(request: Request) -> list[Frames]:
    """Answer in a way that no REQ socket puts up with: it hangs up."""
    return [NO_DELIMITER]


def says(*frames: bytes) -> Script:
    """Answer these bytes, whatever the request."""
    return lambda request: [list(frames)]


def fails(code: str, message: str = "told so", **fields: Any) -> Script:
    """Answer with an error."""
    error = {"code": code, "message": message, **fields}
    return lambda request: [request.reply({}, "error", **error)[:1]]


def _bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Bind; libzmq frees the port of a closed socket a moment after `close` has returned."""
    for _ in range(200):
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise
            time.sleep(0.02)
        else:
            return
    socket.bind(endpoint)


class ScriptedBroker:
    """Answers pings, and each other request by the next line of its script, then by `echo`."""

    def __init__(
        self,
        *script: Script,
        port: int | None = None,
        max_bytes: int = 10**7,
        endpoint: str = "",
    ) -> None:
        """`endpoint`: where to listen, instead of a TCP port of loopback's."""
        self.requests: list[Request] = []  # but for pings
        self._script = list(script)
        self._max_bytes = max_bytes
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        _bind(self._socket, endpoint or f"tcp://127.0.0.1:{port or '*'}")
        if not endpoint:
            self.port = port or int(self._socket.getsockopt(zmq.LAST_ENDPOINT).rpartition(b":")[2])
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def then(self, *script: Script) -> None:
        """More lines of the script."""
        self._script += script

    def forget_script(self) -> None:
        """Go on with echoes."""
        self._script.clear()

    def close(self) -> None:
        """Hang up on everybody and free the port."""
        self._stopped.set()
        self._thread.join()

    def __enter__(self) -> ScriptedBroker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            if self._socket.poll(POLL_MS) and (frames := receive(self._socket)) is not None:
                self._serve(frames)
        self._socket.close()

    def _serve(self, frames: Sequence[zmq.Frame]) -> None:
        envelope, (header, *body) = split_envelope(frames)
        request = Request(decode_header(header), decode_body(body) if body else {})
        if request.header["kind"] == "ping":
            info = {"version": "0", "max_bytes": self._max_bytes, "policies": {}}
            answers: Sequence[Frames] = [request.reply(info, "pong")]
        else:
            self.requests.append(request)
            answers = (self._script.pop(0) if self._script else echo)(request)
        for answer in answers:
            route = envelope[:1] if answer is NO_DELIMITER else envelope
            self._socket.send_multipart([*route, *answer])
