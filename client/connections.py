"""A robot's sockets to several brokers: each is kept connected, and one of them is in use.

To `client.conversation` they look like one `Connection`. `client.route` says which one is in use.
The others wait for the moment when it is lost: the next request then needs no new connection.
"""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Callable, Generic, Sequence, TypeVar

import zmq

from client.connection import Connection
from client.errors import BrokerUnreachable, ConnectionRefusedByPeer, Forbidden, PolicyError
from client.inquiry import first_silence_s, hangs
from client.keys import Key
from client.route import Route
from client.wire import Header

logger = logging.getLogger(__name__)

Each = TypeVar("Each", bound=Connection)


class Connections(Generic[Each]):
    """One `Connection` for each broker. Not thread-safe, except for `interrupt`."""

    def __init__(
        self,
        endpoints: Sequence[str],
        key: Key | None,
        route: Route,
        connect: Callable[[str, Key | None], Each],
    ) -> None:
        """Begin to connect to all. `connect` makes the connection to one of them.

        Raises:
            BrokerUnreachable: an endpoint is not an address, or ZeroMQ cannot open a socket.
        """
        self._route, self._key, self._connect = route, key, connect
        self._all: list[Each] = []
        try:
            for endpoint in endpoints:
                self._all.append(connect(endpoint, key))
        except BaseException:
            self.close()
            raise
        self._used = self._all[0]
        self._told: dict[str, str] = {}  # the last warning about each endpoint

    @property
    def is_interrupted(self) -> bool:
        """Whether all waiting has been ended for good."""
        return self._used.is_interrupted

    @property
    def is_forbidden(self) -> bool:
        """Whether every broker has refused our key, or the lack of one, for good."""
        return all(each.is_forbidden for each in self._all)

    def look(self, now: float) -> None:
        """A call begins: take in what has happened since the last one, to all of them."""
        # Each of them: a monitor that is never read holds up all sockets of this process.
        up = [each.is_up() for each in self._all]
        if self._route.at:
            self._route.sees_first(up[0], now)

    def send(self, frames: Sequence[bytes | memoryview], until: float) -> bool:
        """Send to the broker that the route names, as `Connection.send` does."""
        self._used = used = self._all[self._route.at]
        is_sent = used.send(frames, until, is_only=False)
        if not is_sent:
            self._warn(used)
        return is_sent

    def receive(self, until: float) -> list[zmq.Frame] | None:
        """Wait for its answer, as `Connection.receive` does."""
        return self._used.receive(until)

    def receive_slow(self, until: float, fields: Header) -> list[zmq.Frame] | None:
        """`receive` what may rightly take long; None also as soon as the broker is seen to hang.

        `fields` are the client's, of every header.
        """
        now = time.monotonic()
        silence_s = first_silence_s(until - now)
        while True:
            ask_at = min(until, now + silence_s)
            frames = self._used.receive(ask_at)
            now = time.monotonic()
            is_over = now >= until or self.is_interrupted or self._used.is_severed
            if frames is not None or is_over or self._hangs(until, fields):
                return frames
            silence_s *= 2.0

    def _hangs(self, until: float, fields: Header) -> bool:
        """Whether the broker in use hangs, and another one could be asked."""
        others = self._others()
        if not others or not hangs(self._used, others, self._connect_one, fields, until):
            return False
        self._warn_of_hanging()
        return True

    def _others(self) -> list[str]:
        """Which brokers could be asked instead of the one in use."""
        return [each.endpoint for each in self._all if each is not self._used and each.is_up()]

    def _warn_of_hanging(self) -> None:
        where = self._used.endpoint
        self._warn(self._used, f"the broker at {where} hangs: it does not answer, another one does")

    def pause(self, until: float) -> None:
        """Wait until then, or until it is interrupted."""
        self._used.pause(until)

    def interrupt(self) -> None:
        """End any waiting, now and later; may be called from any thread or signal handler."""
        for each in self._all:
            each.interrupt()

    def drop(self) -> None:
        """Forget what the broker in use was asked; it is connected to anew."""
        self._used.drop()

    def close(self) -> None:
        """Close all sockets."""
        for each in self._all:
            each.close()

    def failure(self) -> PolicyError:
        """The error that says of each broker why there is no connection."""
        failures = [each.failure() for each in self._all]
        kinds = {type(failure) for failure in failures}
        text = "; ".join(str(failure) for failure in failures)
        for kind in (BrokerUnreachable, ConnectionRefusedByPeer, Forbidden):
            if kinds == {kind}:
                return kind(text)
        return BrokerUnreachable(text)

    def _connect_one(self, endpoint: str) -> Each:
        return self._connect(endpoint, self._key)

    def _warn(self, skipped: Each, reason: str = "") -> None:
        """Say once why a broker is passed over; again only when it has another reason."""
        if skipped.is_interrupted:
            return
        reason = reason or str(skipped.failure())
        if self._told.get(skipped.endpoint) != reason:
            self._told[skipped.endpoint] = reason
            logger.warning("going on to the next broker: %s", reason)


def connect(
    endpoints: Sequence[str], key: Key | None, route: Route, may_be_beside: bool
) -> Connection | Connections[Connection]:
    """Begin to connect to one broker, or to each of several.

    `may_be_beside`: as for a `Connection`.

    Raises:
        BrokerUnreachable: an endpoint is not an address, or ZeroMQ cannot open a socket.
    """
    if len(endpoints) == 1:
        return Connection(endpoints[0], key, may_be_beside)
    connect_one = partial(Connection, may_be_beside=may_be_beside)
    return Connections(endpoints, key, route, connect_one)
