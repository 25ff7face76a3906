"""A link that is cut so that one side does not notice: the worker's way back is open at once."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.e2e.stack import WAIT_S, Stack


class Link:
    """Passes TCP connections on to a port, until it hangs up on one side only."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut_the_near_side(self) -> None:
        """Whoever connected sees the end; what it connected to sees only silence."""
        for near, _ in self._pairs:
            with suppress(OSError):
                near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End everything."""
        self._server.shutdown(socket.SHUT_RDWR)
        for pair in self._pairs:
            for side in pair:
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for side in (self._server, *(side for pair in self._pairs for side in pair)):
            side.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._server.accept()[0]
                far = socket.create_connection(("127.0.0.1", self._target))
                self._pairs.append((near, far))
                self._threads.append(threading.Thread(target=self._pass_on, args=(near, far)))
                self._threads[-1].start()

    def _pass_on(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while True:
                for side in select.select([near, far], [], [])[0]:
                    data = side.recv(65_536)
                    if not data:  # the other side is not told
                        return
                    (far if side is near else near).sendall(data)


@pytest.fixture
def link(stack: Stack) -> Iterator[Link]:
    link = Link(stack.backend)
    yield link
    link.close()


def test_a_worker_that_comes_back_is_heard_while_its_old_connection_seems_alive(
    stack: Stack, link: Link
) -> None:
    stack.broker().wait_ready()  # or the link, which tries once, finds nobody
    settings = (f"broker=tcp://127.0.0.1:{link.port}", "policy.time_s=0.3")
    worker = stack.worker("echo", *settings)
    worker.wait_ready()
    for tag in range(3):
        # Had the broker to wait for the old connections' end, it would hear nothing for 9 s.
        answer = stack.infer({"tag": tag}, timeout_s=6.0)
        time.sleep(0.15)  # in the middle of the inference
        link.cut_the_near_side()
        assert answer.result(WAIT_S)["observation"]["tag"] == tag
    assert worker.log.read_text().count("registered as") == 1
