"""The client in `docs/any_language.md` is run as it stands there."""

from __future__ import annotations

import re
import subprocess
import sys

import msgpack
import zmq

from benchmarks.openpi_venv import ROOT
from tests.e2e.stack import WAIT_S, Stack

ADDRESS = "tcp://127.0.0.1:8000"
TEXT = (ROOT / "docs" / "any_language.md").read_text()


def test_the_ten_lines_get_an_action_from_a_model(stack: Stack) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(re.findall(r"^\S.*$", code, re.MULTILINE)) <= 10
    assert set(re.findall(r"import (.*)", code)) == {"msgpack, zmq"}
    stack.broker()
    stack.worker("libero", "env=libero", "model=tiny", policy="pi0").wait_ready()
    done = subprocess.run(
        [sys.executable, "-c", code.replace(ADDRESS, f"tcp://127.0.0.1:{stack.frontend}")],
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )
    assert done.stderr == ""
    (promised,) = re.findall(r"It prints `(.*?)`", TEXT)
    assert done.stdout.strip() == promised


def test_metadata_and_errors_as_the_text_says(shared: Stack) -> None:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REQ)
    with socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1e3))
        socket.connect(f"tcp://127.0.0.1:{shared.frontend}")
        socket.send(msgpack.packb({"v": 1, "kind": "metadata", "policy": "zeros"}))
        header, body = map(msgpack.unpackb, socket.recv_multipart())
        assert (header["kind"], body["model"]) == ("result", "noop")
        socket.send(msgpack.packb({"v": 1, "kind": "infer", "policy": "zeros"}))
        (frame,) = socket.recv_multipart()
        error = msgpack.unpackb(frame)
        assert (error["kind"], error["code"]) == ("error", "protocol_error")
        assert "body is missing" in error["message"]
