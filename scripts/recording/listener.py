"""A subscriber of the broker's tap."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from client.tap import Tapped, decode_tapped
from client.wire import receive

_AHEAD = 500  # messages that libzmq takes for us while we write
_AT_ONCE = 64  # messages, before what they lead to is written
_EVENTS: dict[int, str] = {
    zmq.EVENT_HANDSHAKE_SUCCEEDED: "connected",
    zmq.EVENT_DISCONNECTED: "lost",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "foreign",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "foreign",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "full",
}


class NoTap(Exception):
    """Nothing that could be followed is there; the message says what to do."""


class Listener:
    """Subscribes and takes messages; libzmq connects again by itself when a broker restarts."""

    def __init__(self, address: str, topics: Sequence[bytes]) -> None:
        """Begin to connect.

        Raises:
            NoTap: the address is none.
        """
        self.is_connected = False
        self._address = address
        self._last = ""  # event
        self._is_full = False  # has it refused us?
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.setsockopt(zmq.RCVHWM, _AHEAD)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.IPV6, int("[" in address))
        for each in topics:
            self._socket.setsockopt(zmq.SUBSCRIBE, each)
        self._monitor = self._socket.get_monitor_socket(sum(_EVENTS))
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise NoTap(
                f"{address!r} is no address of a tap: ipc://PATH or tcp://127.0.0.1:PORT, as the "
                "broker's `tap` has it"
            ) from error

    def wait(self, timeout_s: float) -> None:
        """Return once connected.

        Raises:
            NoTap: nobody answers, or something else does.
        """
        until = time.monotonic() + timeout_s
        while not self.is_connected:
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise self._failure()
            self._monitor.poll(int(left_s * 1e3) + 1)
            self._look()

    def take(self, timeout_ms: int) -> Iterator[Tapped]:
        """What has come; waits for so long if that is nothing.

        Raises:
            ProtocolError: what came is no message of a tap.
        """
        self._look()
        if not self._socket.poll(timeout_ms):
            return
        for _ in range(_AT_ONCE):
            frames = receive(self._socket)
            if frames is None:
                return
            yield decode_tapped(frames)

    def close(self) -> None:
        """Hang up."""
        self._socket.disable_monitor()
        self._context.destroy(linger=0)

    def _look(self) -> None:
        while (frames := receive(self._monitor)) is not None:
            event = parse_monitor_message([frame.bytes for frame in frames])["event"]
            self._last = _EVENTS[event]
            self.is_connected = self._last == "connected"
            self._is_full = not self.is_connected and (self._is_full or self._last == "full")

    def _failure(self) -> NoTap:
        if self._is_full:
            return NoTap(
                f"as many programs listen at {self._address} as may: end one of them, or raise the "
                "broker's limits.max_tap_listeners"
            )
        if self._last:
            return NoTap(
                f"something else than a tap answers at {self._address}: is it the broker's "
                "frontend or backend? The tap is a place of its own (the broker's setting `tap`)"
            )
        return NoTap(
            f"no tap answers at {self._address}: start the broker with tap={self._address}, on "
            "this machine and, for ipc://, as the same user"
        )
