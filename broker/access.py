"""Who is let in: the folder of keys, and libzmq's questions about every newcomer.

With keys, libzmq asks about each one by ZAP (ZeroMQ RFC 27) before it lets it in. The answer is
given by the broker's own thread, between messages.
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
        """Believe what is in the folder now, if it can be read, and log what came of it."""
        try:
            keyring = read_keys(self._folder)
        except ValueError as error:
            logger.error("the old keys stay, the new ones cannot be read: %s", error)
            return
        if keyring.public != self.keyring.public:
            logger.warning(
                "the broker's own key was made anew: it holds from the next start on, and until "
                "then peers whose key files name the new one cannot come in"
            )
        self.guard.reload(keyring)
        logger.info("read the keys again: %d peers may come in", len(keyring.peers))


class Zap:
    """Answers libzmq's question whether a key may come in."""

    def __init__(self, context: zmq.Context[Socket], guard: Guard, counters: Counter[str]) -> None:
        """Bind, which must come before the doors: without this, any key is let in."""
        self._guard, self._counters = guard, counters
        self.socket: Socket = context.socket(zmq.REP)
        self.socket.bind(_ZAP_ADDRESS)

    def serve(self) -> None:
        """Answer all who wait at the doors."""
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
