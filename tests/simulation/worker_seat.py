"""The place of one worker: keeps it running as an operator would, and makes it suffer or lie."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from client.wire import RequestId
from tests.simulation.network import Connection
from tests.simulation.schedule import WorkerSpec, way
from tests.simulation.worker_process import FORGED, WorkerProcess

if TYPE_CHECKING:
    from tests.simulation.broker_process import BrokerProcess
    from tests.simulation.world import World

LIES = (
    "repeat",  # its last answer once more
    "steal",  # an answer to a request that it doesn't have
    "fail others",  # a failure of such a request
    "claim",  # a heartbeat with such requests in hand
    "old epoch",  # an answer to its own request, as if to another broker
    "next attempt",  # an answer to its own request, as if to another attempt
    "hello",  # out of turn
    "ready",  # out of turn, with an absurd speed
    "garbage",
)


class Seat:
    """One worker after another under the same number."""

    def __init__(self, world: World, number: int, spec: WorkerSpec) -> None:
        self.process: WorkerProcess | None = None
        self.refused = False
        self.most_held = 0
        self._world, self._number, self._spec = world, number, spec
        self._random = Random(f"{world.schedule.seed}/seat{number}")
        self._incarnations = 0
        self._back_s: float | None
        self.start()

    @property
    def name(self) -> str:
        """Of the link, too."""
        return f"w{self._number}"

    @property
    def policy(self) -> str:
        """What it serves."""
        return self._spec.policy

    @property
    def spec(self) -> WorkerSpec:
        """Of every incarnation."""
        return self._spec

    @property
    def comes_back(self) -> bool:
        """Will there be another process, where there is none?"""
        return not self.refused and self._back_s is not None

    def start(self) -> None:
        """Start an incarnation, if there is none."""
        if self.process is not None:
            return
        world = self._world
        self._back_s = 0.2
        self._incarnations += 1
        incarnation = b"%s.%d" % (self.name.encode(), self._incarnations)
        self.process = WorkerProcess(
            world.clock,
            self._spec,
            [(world.links[each], broker) for each, broker in self._ways()],
            self,
            incarnation.ljust(16, b"-"),
        )

    def _ways(self) -> list[tuple[str, BrokerProcess]]:
        brokers = self._world.brokers
        return [(way(self.name, number), broker) for number, broker in enumerate(brokers)]

    def ended(self, worker: WorkerProcess, why: str) -> None:
        """The operator starts another one, unless the broker refused it."""
        self.most_held = max(self.most_held, worker.most_held)
        self.process = None
        self.refused = why == "refused"
        if self.comes_back:
            self._world.clock.after(self._back_s or 0.0, self.start)

    # What happens to it.

    def crash(self, back_s: float | None) -> None:
        """Kill -9."""
        if self.process is not None:
            self._back_s = back_s
            self.process.crash()

    def drain(self, back_s: float | None) -> None:
        """SIGTERM."""
        if self.process is not None:
            self._back_s = back_s
            self.process.drain()

    def stall(self, seconds: float) -> None:
        """SIGSTOP, then SIGCONT; ZeroMQ's heartbeats may end its connection meanwhile."""
        process = self.process
        if process is None:
            return
        process.stall()
        self._world.clock.after(seconds, process.resume)
        for name, _ in self._ways():
            link = self._world.links[name]
            for connection in link.connections:
                self._world.clock.after(link.hang_up_s, self._hang_up, process, connection)

    def _hang_up(self, process: WorkerProcess, connection: Connection) -> None:
        if process.is_stopped:
            connection.close(at_broker=True)

    def hang(self, seconds: float) -> None:
        """Its device does nothing."""
        if self.process is not None:
            self.process.hang(self._world.clock.now + seconds)

    def slow(self, factor: float, seconds: float) -> None:
        """Its device is slow."""
        if self.process is not None:
            self.process.slow = factor
            self._world.clock.after(seconds, setattr, self.process, "slow", 1.0)

    def refuse(self, seconds: float) -> None:
        """Sends to it fail."""
        for name, _ in self._ways():
            for connection in self._world.links[name].connections:
                connection.refuses_until = self._world.clock.now + seconds

    def heal(self) -> None:
        """Whatever was wrong with a living process is over."""
        if self.process is not None:
            self.process.hang(0.0)
            self.process.slow = 1.0
            self.process.resume()
        self.refuse(0.0)

    # Lies.

    def forge(self, lie: str) -> None:
        """Tell one of `LIES`."""
        if self.process is None or self.process.session.epoch is None or self._world.at_peace:
            return
        lies: dict[str, Callable[[WorkerProcess], object]] = {
            "repeat": self._repeat,
            "steal": lambda process: self._answer_for(process, "result"),
            "fail others": lambda process: self._answer_for(process, "failure"),
            "claim": self._claim,
            "old epoch": self._old_epoch,
            "next attempt": self._next_attempt,
            "hello": lambda process: process.say_hello(),
            "ready": lambda process: process.say(
                {"kind": "ready", "slots": self._spec.slots, "inference_ms": 0.0, **process.share}
            ),
            "garbage": lambda process: process.say({"kind": "result", "id": "nonsense"}, [FORGED]),
        }
        lies[lie](self.process)

    def _repeat(self, process: WorkerProcess) -> None:
        if process.last_result is not None:
            process.say(process.last_result, [FORGED])

    def _answer_for(self, process: WorkerProcess, kind: str) -> None:
        for id, attempt in self._attempts():
            fields = {"kind": kind, "id": id, "attempt": attempt, "code": "policy_failed"}
            process.say(fields, [FORGED])

    def _claim(self, process: WorkerProcess) -> None:
        ids = [[id, attempt] for id, attempt in self._attempts()]
        ids += [[id, attempt] for id, attempt, _ in process.session.in_hand]
        process.say({"kind": "heartbeat", "n": 0, "ids": ids, "state": "ready"})

    def _old_epoch(self, process: WorkerProcess) -> None:
        for id, attempt, epoch in process.session.in_hand:
            fields = {"kind": "result", "id": id, "attempt": attempt, "epoch": epoch - 1}
            process.say(fields, [FORGED])

    def _next_attempt(self, process: WorkerProcess) -> None:
        for id, attempt, _ in process.session.in_hand:
            process.say({"kind": "result", "id": id, "attempt": attempt + 1}, [FORGED])

    def _attempts(self) -> list[tuple[RequestId, int]]:
        """Some first and second attempts at what the broker has in hand.

        Where this worker has one of them itself, the broker must believe it, and
        `BrokerProcess` keeps the lie away.
        """
        core = self._world.broker.core
        if core is None:
            return []
        attempts = [(id, attempt) for id in core.inflight.requests for attempt in (1, 2)]
        return self._random.sample(attempts, min(2, len(attempts)))
