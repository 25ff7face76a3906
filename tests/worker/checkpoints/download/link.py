"""A TCP link to a server on this machine that counts what comes back, and can be cut or held."""

import select
import socket
import threading
from types import TracebackType

CHUNK_BYTES = 65536


class Link:
    """Relays connections to `port`; a context manager.

    `cut_after`: every connection is closed when that many bytes came back over it.
    `allowance`: as many bytes come back over all connections together; then all are closed, new
    ones too.
    `open`: while it is not set, connections are accepted and nothing is relayed.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self.received = 0
        self.connections = 0
        self.cut_after: int | None = None
        self.allowance: int | None = None
        self.open = threading.Event()
        self.open.set()

    @property
    def endpoint(self) -> str:
        """Its address as a client takes it."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "Link":
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.open.set()
        # Wakes the thread that accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.allowance = 0
        for thread in self._threads:
            thread.join()

    def _start(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._relay, client)

    def _relay(self, client: socket.socket) -> None:
        self.open.wait()
        with client, socket.create_connection(("127.0.0.1", self._port)) as server:
            came_back = 0
            while self.allowance is None or self.allowance > 0:
                ready, _, _ = select.select([client, server], [], [], 0.05)
                for source in ready:
                    try:
                        data = source.recv(CHUNK_BYTES)
                        if source is server:
                            data = self._allowed(data, came_back)
                            came_back += len(data)
                        (client if source is server else server).sendall(data)
                    except OSError:
                        return
                    if not data or came_back == self.cut_after:
                        return

    def _allowed(self, data: bytes, came_back: int) -> bytes:
        with self._lock:
            if self.cut_after is not None:
                data = data[: self.cut_after - came_back]
            if self.allowance is not None:
                data = data[: self.allowance]
                self.allowance -= len(data)
            self.received += len(data)
        return data
