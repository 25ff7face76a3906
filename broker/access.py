"""Who is let in: the folder of keys, and the handler that libzmq asks about each connection.

With keys, libzmq authenticates each new connection by ZAP (ZeroMQ RFC 27): it sends the key to a
handler and waits for the decision. The handler runs in the broker's own thread, between messages.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import zmq
from zmq.utils import z85

from broker.security import Guard, read_keys
from client.wire import receive

logger = logging.getLogger("broker")

Socket = zmq.Socket[bytes]

_ZAP_ADDRESS = "inproc://zeromq.zap.01"


class KeyFolder:
    """The folder of keys, read at the start and whenever an operator asks for it."""

    def __init__(self, folder: Path) -> None:
        """Read it.

        Raises:
            ValueError: the keys cannot be read; the message names the file.
        """
        self._folder = folder
        self.keyring = read_keys(folder)  # as it was at the start
        self.guard = Guard(self.keyring)

    def read_again(self) -> None:
        """Use the keys that are in the folder now; keep the old ones if it cannot be read."""
        try:
            keyring = read_keys(self._folder)
        except ValueError as error:
            logger.error("the old keys stay, the new ones cannot be read: %s", error)
            return
        if keyring.public != self.keyring.public:
            logger.warning(
                "the broker's own key has changed: the new one is used from the next start on, and "
                "until then peers whose key files name it cannot connect"
            )
        self.guard.reload(keyring)
        logger.info("read the keys again: %d peers may connect", len(keyring.peers))


class Zap:
    """The ZAP handler: decides for libzmq whether a key may connect."""

    def __init__(self, context: zmq.Context[Socket], guard: Guard, counters: Counter[str]) -> None:
        """Bind the handler. Without it libzmq accepts any key, so it comes before the doors."""
        self._guard, self._counters = guard, counters
        self.socket: Socket = context.socket(zmq.REP)
        self.socket.bind(_ZAP_ADDRESS)

    def serve(self) -> None:
        """Decide about all connections that wait for it."""
        while (frames := receive(self.socket)) is not None:
            version, request, domain, address, _, mechanism, *credentials = (
                frame.bytes for frame in frames
            )
            door, key, reason = domain.decode(), "", "no key"
            if mechanism == b"CURVE" and len(credentials) == 1:
                key = z85.encode(credentials[0]).decode("ascii")
                reason = self._guard.refusal(door, key)
            if reason:
                self._counters[f"{door} refused: {reason}"] += 1
                logger.warning("refused a peer from %s: %s", address.decode(), reason)
            status = [b"400", b"refused", b""] if reason else [b"200", b"", key.encode("ascii")]
            self.socket.send_multipart([version, request, *status, b""])
