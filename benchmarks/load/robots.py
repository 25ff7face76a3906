"""Many robots at a broker in one thread, each with a socket of its own, paced by their rates.

They speak the protocol, but have no more of a client than that: what is measured is the other side.
A robot asks at each of its moments; what comes for an earlier one is taken for late. `FCFS` has
the broker serve first come first served and give nothing up: every request says the same deadline,
far away, so the order of deadlines is the order of arrival, none is refused or ends in the queue,
and each has a session of its own, so that none takes an older one's place.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Sequence
from enum import Enum
from types import TracebackType
from typing import Any

import zmq

from benchmarks.load.kinds import Kind
from benchmarks.load.tally import ANSWERED, Tally, Wish
from client.body import encode_body
from client.wire import TO_CLIENT, RequestId, decode_header, encode_header, split_envelope

_FAR_MS = 600_000.0
_IO_THREADS = 1  # for all sockets; real robots have one each, on machines of their own


class Order(Enum):
    """How the broker is to serve."""

    OURS = "ours"
    FCFS = "first come first served"


class _Robot:
    """One robot's socket, and its wishes that have no answer yet."""

    def __init__(self, number: int, kind: Kind, context: zmq.Context[Any], port: int) -> None:
        self.kind = kind
        self.client = number.to_bytes(16, "big")
        self.sequence = 0
        self.open: dict[int, Wish] = {}
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(f"tcp://127.0.0.1:{port}")


class Robots:
    """Robots of these kinds at the broker on a loopback port. A context: leaving it ends them."""

    def __init__(
        self,
        port: int,
        kinds: Sequence[Kind],
        observation: dict[str, Any],
        order: Order = Order.OURS,
    ) -> None:
        """Connect; nobody asks yet."""
        self._order = order
        self._frames = [bytes(frame) for frame in encode_body(observation, buffers=True)]
        self._context = zmq.Context(_IO_THREADS)
        self._context.set(zmq.MAX_SOCKETS, 10_000)
        self._robots = [
            _Robot(number, kind, self._context, port) for number, kind in enumerate(kinds)
        ]
        self._poller = zmq.Poller()
        self._of = {robot.socket: robot for robot in self._robots}
        for robot in self._robots:
            self._poller.register(robot.socket, zmq.POLLIN)
        self._moments: list[tuple[float, int]] = []
        self.wishes: list[Wish] = []

    def run(self, warm_s: float, seconds: float) -> Tally:
        """Ask for `warm_s`, then for `seconds` that are counted, and wait for what is out."""
        dice = random.Random(len(self._robots))
        begun = time.monotonic()
        start, end = begun + warm_s, begun + warm_s + seconds
        self.wishes, self._moments = [], []
        for number, robot in enumerate(self._robots):
            # Robots are not in step.
            heapq.heappush(self._moments, (begun + dice.random() * robot.kind.period_s, number))
        while (now := time.monotonic()) < end:
            while self._moments and self._moments[0][0] <= now:
                at, number = heapq.heappop(self._moments)
                self._ask(number, at)
            self._take((self._moments[0][0] if self._moments else end) - time.monotonic())
        longest = max(robot.kind.deadline_s for robot in self._robots)
        while time.monotonic() < end + longest and any(robot.open for robot in self._robots):
            self._take(0.05)
        counted = [wish for wish in self.wishes if start <= wish.at < end]
        return Tally(start, end, counted, len(self._robots))

    def _ask(self, number: int, at: float) -> None:
        robot = self._robots[number]
        robot.sequence += 1
        kind = robot.kind
        left_ms = (at + kind.deadline_s - time.monotonic()) * 1e3
        session = "episode"
        if self._order is Order.FCFS:
            left_ms, session = _FAR_MS, str(robot.sequence)
        header = {
            "v": 1,
            "kind": "infer",
            "id": RequestId(robot.client, robot.sequence),
            "deadline_ms": max(0.0, left_ms),
            "session": session,
            "buffers": True,
        }
        wish = robot.open[robot.sequence] = Wish(at, kind.deadline_s)
        self.wishes.append(wish)
        try:
            # Large frames are not copied: all robots send the same.
            robot.socket.send_multipart(
                [b"", encode_header(header), *self._frames], zmq.NOBLOCK, copy=False
            )
        except zmq.Again:
            wish.outcome = "not sent"
            del robot.open[robot.sequence]
        if kind.period_s:
            heapq.heappush(self._moments, (at + kind.period_s, number))

    def _take(self, wait_s: float) -> None:
        """Take the answers that are there, or the first that comes."""
        for socket, _ in self._poller.poll(max(0, math.ceil(wait_s * 1e3))):
            robot = self._of[socket]
            while True:
                try:
                    frames = socket.recv_multipart(zmq.NOBLOCK, copy=False)
                except zmq.Again:
                    break
                self._settle(robot, frames)

    def _settle(self, robot: _Robot, frames: list[zmq.Frame]) -> None:
        _, message = split_envelope(frames)
        header = decode_header(message[0], TO_CLIENT)
        wish = robot.open.pop(header["id"].sequence, None)
        if wish is None:
            return
        wish.ended = time.monotonic()
        timing = header.get("timing", {})
        wish.policy_ms = timing.get("infer_ms", 0.0)
        wish.outcome = ANSWERED if header["kind"] == "result" else header.get("code", "error")
        if not robot.kind.period_s:
            heapq.heappush(self._moments, (wish.ended, int.from_bytes(robot.client, "big")))

    def __enter__(self) -> Robots:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for robot in self._robots:
            robot.socket.close()
        self._context.term()
