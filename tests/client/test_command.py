"""`python -m client` among other commands of a shell."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.client.scripted_broker import ScriptedBroker

WAIT_S = 60.0


@pytest.mark.parametrize(
    ("words", "unbuffered"),
    [(["--help"], ""), ([], ""), ([], "1")],  # argparse itself is quiet where it cannot write
    ids=["help", "report", "report line by line"],
)
def test_a_reader_that_has_enough(words: list[str], unbuffered: str) -> None:
    with ScriptedBroker() as broker:
        reader, writer = os.pipe()
        os.close(reader)  # as `head` does, once it has its lines
        command = [sys.executable, "-m", "client", "127.0.0.1", "--port", str(broker.port), *words]
        with os.fdopen(writer, "wb") as stdout:
            done = subprocess.run(
                command,
                stdout=stdout,
                stderr=subprocess.PIPE,
                env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
                timeout=WAIT_S,
                check=False,
            )
    assert (done.returncode, done.stderr) == (141, b"")
