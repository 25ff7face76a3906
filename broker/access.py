"""Who is let in: the folder of keys, the file of teams, and the handler that libzmq asks.

With keys, libzmq authenticates each new connection by ZAP (ZeroMQ RFC 27): it sends the key to a
handler and waits for the decision. The handler runs in the broker's own thread, between messages.
"""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import zmq
from zmq.utils import z85

from broker.fairness import Fairness
from broker.security import Guard, Keyring, read_keys
from broker.teams import Teams, read_teams
from client.wire import receive

logger = logging.getLogger("broker")

Socket = zmq.Socket[bytes]

ZAP_ADDRESS = "inproc://zeromq.zap.01"


class KeyFolder:
    """The folder of keys, read at the start and whenever an operator asks for it."""

    def __init__(self, folder: Path) -> None:
        """Read it.

        Raises:
            ValueError: the keys cannot be read; the message names the file.
        """
        self._folder = folder
        self.keyring = read_keys(folder)  # as it was at the start
        self.names = _names(self.keyring)  # as they are now
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
        self.names = _names(keyring)
        logger.info("read the keys again: %d peers may connect", len(keyring.peers))


class TeamFile:
    """The file of teams, read at the start and whenever an operator asks for it."""

    def __init__(self, path: str | None, keys: KeyFolder | None) -> None:
        """Read it; with None there are no teams.

        Raises:
            ValueError: it cannot be read; the message names the file and what is wrong.
        """
        self._path, self._keys = path, keys
        self.teams = self._read()  # as they were at the start

    def read_again(self, fairness: Fairness) -> None:
        """Use the teams that are in the file now; keep the old ones if it cannot be read."""
        if self._path is None:
            return
        try:
            fairness.use(self._read())
        except ValueError as error:
            logger.error("the old teams stay, the new ones cannot be read: %s", error)
        else:
            logger.info("read the teams again: %s", ", ".join(fairness.teams))

    def _read(self) -> Teams:
        if self._path is None:
            return {}
        return read_teams(Path(self._path), None if self._keys is None else self._keys.names)


def _names(keyring: Keyring) -> frozenset[str]:
    return frozenset(each.name for each in keyring.peers.values())


class Zap:
    """The ZAP handler: decides for libzmq whether a key may connect."""

    def __init__(self, context: zmq.Context[Socket], guard: Guard, counters: Counter[str]) -> None:
        """Bind the handler. Until then libzmq accepts any key, so bind it before the doors."""
        self._guard, self._counters = guard, counters
        self.socket: Socket = context.socket(zmq.REP)
        self.socket.bind(ZAP_ADDRESS)

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
