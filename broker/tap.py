"""The tap: where programs on this machine can follow all requests and answers.

It is an XPUB socket, which never waits: what a subscriber does not take in time is dropped for that
one, and the numbers of the messages tell it how many. Nothing is sent, and the core is not even
asked to tell, while nobody subscribes. Each subscriber may hold memory, so their number is bounded:
libzmq asks about each new one (by ZAP, ZeroMQ RFC 27), in a context of the tap's own.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter

import zmq
from zmq.utils.monitor import parse_monitor_message

from broker.access import ZAP_ADDRESS
from broker.config import BrokerConfig
from broker.doors import CannotBind, Socket, bind
from broker.events import Tapped
from client.tap import encode_tapped, topic
from client.wire import receive, send

logger = logging.getLogger("broker")

NAME = "tap"  # of its setting
_MOST_TOPICS = 4096  # robots may call themselves what they like; then the oldest count begins anew
_LONGEST_TOPIC = 1024  # bytes of a subscription
_LAST_WORDS_MS = 200
_FEWEST = 4  # messages kept for a subscriber, however small the limit


class Tap:
    """Publishes what the core tells it; `is_heard` says whether anybody listens."""

    def __init__(self, config: BrokerConfig, address: str, counters: Counter[str]) -> None:
        """Bind. `counters` gets those that are refused.

        Raises:
            CannotBind: the address is in use, or is not one of this machine's.
        """
        self.is_heard = False
        self._subscriptions = 0
        self._most, self._counters = config.limits.max_tap_listeners, counters
        self._connections: set[int] = set()  # by file descriptor, those that are asked about too
        self._numbers: dict[bytes, int] = {}
        limits = config.limits
        self._context: zmq.Context[Socket] = zmq.Context()
        self.door = self._context.socket(zmq.REP)
        self.door.bind(ZAP_ADDRESS)
        socket = self.socket = self._context.socket(zmq.XPUB)
        socket.setsockopt(zmq.ZAP_DOMAIN, NAME.encode("ascii"))
        self.monitor = socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        # The bound of the memory that one subscriber can hold: its messages hold their frames.
        socket.setsockopt(zmq.SNDHWM, max(_FEWEST, limits.max_tap_bytes // limits.max_bytes))
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, _LONGEST_TOPIC)
        # One that is stopped is given up, with all that is kept for it.
        socket.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 15_000)
        before = os.umask(0o177)  # ipc://: for this user only, from its first moment on
        try:
            bind(socket, NAME, address)
        except CannotBind:
            self._context.destroy(linger=0)
            raise
        finally:
            os.umask(before)

    def take(self) -> bool:
        """Take in who came and left; returns whether anybody listens."""
        while (frames := receive(self.socket)) is not None:
            # XPUB tells of the first who subscribes to a topic, and of the last who leaves it.
            begins = frames[0].bytes[:1]
            self._subscriptions += (begins == b"\1") - (begins == b"\0")
        self.is_heard = self._subscriptions > 0
        return self.is_heard

    def look(self) -> None:
        """Take in which connections came and went; the monitor is read here only."""
        while (frames := receive(self.monitor)) is not None:
            news = parse_monitor_message([frame.bytes for frame in frames])
            if news["event"] == zmq.EVENT_ACCEPTED:
                self._connections.add(news["value"])
            else:
                self._connections.discard(news["value"])

    def admit(self) -> None:
        """Decide about those that wait to be let in."""
        while (frames := receive(self.door)) is not None:
            self.look()
            status = [b"200", b""]
            if len(self._connections) > self._most:
                status = [b"400", b"full"]
                self._counters["tap refused: full"] += 1
                logger.warning(
                    "refused a program at the tap: %d listen there (limits.max_tap_listeners)",
                    self._most,
                )
            version, request = frames[0].bytes, frames[1].bytes
            self.door.send_multipart([version, request, *status, b"", b""])

    def close(self) -> None:
        """Close it, after a moment for the last answers."""
        self.socket.disable_monitor()
        self.socket.close(linger=_LAST_WORDS_MS)
        self._context.destroy(linger=0)

    def publish(self, message: Tapped) -> None:
        """Send a message to those who listen to its topic and have room for it."""
        about = message.about
        of = topic(about["policy"], about["robot"])
        number = self._numbers.get(of, 0) + 1
        if number == 1 and len(self._numbers) >= _MOST_TOPICS:
            del self._numbers[next(iter(self._numbers))]
        self._numbers[of] = number
        header = encode_tapped({"kind": message.kind, "n": number, "at": time.time(), **about})
        send(self.socket, [of, header, *message.payload])
