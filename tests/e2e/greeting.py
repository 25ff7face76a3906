"""A way to a broker on which it is heard out before it learns who is there.

A broker that asks for a key hangs up on whoever has none, and one that has none on whoever brings
one. On one busy machine that end mostly comes before the broker's own greeting was read, and its
peer tries again for half a minute until it hears what is wrong. On this way it hears it the first
time.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_VERSION_BYTES = 11  # ZMTP 3.1: a signature of 10 and the version that its peer waits for
_GREETING_BYTES = 64


def _carry(near: socket.socket, far: socket.socket) -> None:
    """Pass on what comes from `near`, most of it after all of the greeting of `far`."""
    with near, far, suppress(OSError):
        said, heard = 0, 0
        while heard < _GREETING_BYTES:
            watched = [near, far] if said < _VERSION_BYTES else [far]
            for side in select.select(watched, [], [])[0]:
                most = _VERSION_BYTES - said if side is near else _GREETING_BYTES - heard
                data = side.recv(most)
                if not data:
                    return
                if side is near:
                    far.sendall(data)
                    said += len(data)
                else:
                    near.sendall(data)
                    heard += len(data)
        while data := near.recv(1024):
            far.sendall(data)


@contextmanager
def heard_out(port: int) -> Iterator[int]:
    """The port of such a way to another on this machine."""
    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                pair = server.accept()[0], socket.create_connection(("127.0.0.1", port))
                sockets.extend(pair)
                threads.append(threading.Thread(target=_carry, args=pair))
                threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for each in sockets:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join()
