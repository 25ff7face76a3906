"""Stories for the broker's core, told as they happen: no sockets, no clock, no threads.

    story = Scenario()
    story.join("w1")                 # a worker says hello and is ready
    ask = story.ask("arm")           # a robot sends an observation
    story.after(0.05)                # time passes; live workers answer heartbeats
    story.finish("w1")               # the worker answers
    assert story.outcome(ask) == "result"

After every event the scenario itself checks what must hold always: one final answer at most, to
the route that asked last; no more work than slots; and no wake-up in the past.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from broker.config import BrokerConfig
from broker.core import Core
from broker.events import (
    ConnectionLost,
    Event,
    RobotMessage,
    Stop,
    Tick,
    ToRobot,
    ToWorker,
    WorkerMessage,
    WorkerUnreachable,
)
from broker.names import GRACE_S
from broker.teams import Teams
from client.body import encode_body
from client.wire import Header, RequestId

EPOCH = 7
MAX_STEPS = 10_000  # of the core's own making, in one stretch of time


@dataclass(eq=False)
class Ask:
    """One robot's request, and the answers that it got."""

    id: RequestId
    route: bytes
    header: Header
    answers: list[tuple[float, Header]] = field(default_factory=list)


class Scenario:
    """A core, the robots and the workers around it, and a clock that only tests move."""

    def __init__(
        self,
        config: BrokerConfig | None = None,
        epoch: int = EPOCH,
        age_s: float = GRACE_S,
        teams: Teams | None = None,
    ) -> None:
        """The core has run for `age_s`; where there are teams, each robot has a key of its name."""
        self.has_keys = teams is not None
        self.now = 1000.0
        self.epoch = epoch
        self.core = Core(config or BrokerConfig(), epoch, self.now - age_s, teams)
        self.hands: dict[str, list[tuple[RequestId, int]]] = defaultdict(list)
        self.told: dict[str, list[Header]] = defaultdict(list)  # but for `infer` and heartbeats
        self.given: list[tuple[str, Header]] = []  # every `infer`, with its worker
        self.silent: set[str] = set()  # workers that do not answer heartbeats
        self.gone: set[str] = set()  # workers that cannot be reached
        self.slots: dict[str, int] = defaultdict(int)
        self.beats: dict[str, int] = defaultdict(int)
        self.wakes = 0  # how often the core had itself woken
        self.payloads: dict[RequestId, list[bytes]] = {}  # of answers
        self._asks: dict[RequestId, Ask] = {}
        self._sequences: dict[str, int] = defaultdict(int)

    # Robots.

    def ask(self, robot: str, *, size: int = 100, again: Ask | None = None, **header: Any) -> Ask:
        """Send an observation of `size` bytes; `again` sends that one once more, over a new route.

        Header fields: `deadline_s`, `policy`, `session`, `priority`.
        """
        if again is None:
            self._sequences[robot] += 1
            again = Ask(RequestId(robot.encode().ljust(16), self._sequences[robot]), b"", header)
            self._asks[again.id] = again
        again.route += b"r"
        fields: Header = {"v": 1, "kind": "infer", "id": again.id, "session": "", **again.header}
        fields = {field: value for field, value in fields.items() if value is not None}
        if "deadline_s" in fields:
            fields["deadline_ms"] = fields.pop("deadline_s") * 1e3
        self._from_robot(robot, again.route, fields, (bytes(size),))
        return again

    def request(self, robot: str, kind: str, payload: Any = (), **fields: Any) -> Header:
        """Send something other than an observation; returns the answer's header."""
        id = RequestId(robot.encode().ljust(16), 0)
        ask = self._asks[id] = Ask(id, b"other", {})
        self._from_robot(robot, b"other", {"v": 1, "kind": kind, "id": id, **fields}, payload)
        return ask.answers[0][1]

    def tell_all(
        self, robot: str, kind: str, body: dict[str, Any] | None, **fields: Any
    ) -> tuple[Header, list[bytes]]:
        """As `request`, with a body; returns the answer's header, and its body and buffers."""
        payload = () if body is None else tuple(map(bytes, encode_body(body)))
        header = self.request(robot, kind, payload, **fields)
        return header, self.payloads[header["id"]]

    def outcome(self, ask: Ask) -> str:
        """`waiting`, `result`, or the code of the error that it got."""
        if not ask.answers:
            return "waiting"
        header = ask.answers[-1][1]
        return str(header.get("code", header["kind"]))

    def retry_after_s(self, ask: Ask) -> float:
        """What its error says."""
        return float(ask.answers[-1][1]["retry_after_ms"]) / 1e3

    def message(self, ask: Ask) -> str:
        """The text of the error that it got."""
        return str(ask.answers[-1][1]["message"])

    def took_s(self, ask: Ask, since: float) -> float:
        """Seconds until its answer."""
        return ask.answers[-1][0] - since

    # Workers.

    def hello(self, name: str, policy: str = "p", **fields: Any) -> None:
        """A worker says hello, still warming."""
        header: Header = {"policy": policy, "incarnation": name.encode().ljust(16)}
        header |= {"state": "warming", "digest": "d", "horizon": 50}
        self.gone.discard(name)
        self.tell_from(name, "hello", payload=(b"metadata of " + name.encode(),), **header | fields)

    def join(
        self, name: str, policy: str = "p", slots: int = 1, inference_ms: float = 10.0
    ) -> None:
        """A worker says hello and is ready."""
        self.hello(name, policy)
        self.ready(name, slots, inference_ms)

    def ready(self, name: str, slots: int = 1, inference_ms: float = 10.0) -> None:
        """A worker has warmed up."""
        self.slots[name] = slots
        self.tell_from(name, "ready", slots=slots, inference_ms=inference_ms)

    def beat(self, name: str, **fields: Any) -> None:
        """A worker's heartbeat: the last one of the broker's that it heard, and what it has."""
        header = {"n": self.beats[name], "ids": list(self.hands[name]), "state": "ready"}
        self.tell_from(name, "heartbeat", **header | fields)

    def finish(self, name: str, kind: str = "result", **fields: Any) -> None:
        """A worker answers the oldest request that it has."""
        id, attempt = self.hands[name].pop(0)
        self.tell_from(name, kind, **{"id": id, "attempt": attempt, "timing": {}, **fields})

    def forget(self, name: str) -> None:
        """What was on its way to a worker is lost."""
        self.hands[name].clear()

    def die(self, name: str) -> None:
        """A worker's process is gone, and its connection with it."""
        self.gone.add(name)
        self.forget(name)
        self.tell(ConnectionLost((name.encode(),)))

    def tell_from(self, name: str, kind: str, payload: Any = (), **fields: Any) -> None:
        """Any message of a worker."""
        header = {"v": 1, "kind": kind, "epoch": self.epoch, **fields}
        self.tell(WorkerMessage(name.encode(), header, payload))

    def work(self, name: str) -> list[RequestId]:
        """The requests that a worker has."""
        return [id for id, _ in self.hands[name]]

    # Time.

    def after(self, seconds: float) -> None:
        """Let time pass as the shell does: the core is woken whenever it asked for it."""
        until = self.now + seconds
        self.tell(Tick())
        for _ in range(MAX_STEPS):
            wake_at = self.core.wake_at()
            assert wake_at > self.now, "the core would spin"
            self.wakes += 1
            if wake_at > until:
                self.now = until
                self.tell(Tick())
                return
            self.now = wake_at
            self.tell(Tick())
        raise AssertionError("the core never rests")

    def stop(self) -> None:
        """The broker is told to stop."""
        self.tell(Stop())

    def tell(self, event: Event) -> None:
        """One event, and those that follow from it, carried out as the shell does."""
        events = [event]
        for each in events:
            for command in self.core.handle(each, self.now):
                if isinstance(command, ToRobot):
                    self._to_robot(command)
                elif isinstance(command, ToWorker):
                    events += self._to_worker(command)
        assert self.core.in_hand == sum(
            not ask.answers for ask in self._asks.values() if ask.route != b"other"
        )

    def _from_robot(self, robot: str, route: bytes, header: Header, payload: Any = ()) -> None:
        peer = robot if self.has_keys else ""
        self.tell(RobotMessage(robot.encode(), (robot.encode(), route), header, payload, peer))

    def _to_robot(self, command: ToRobot) -> None:
        ask = self._asks.get(command.header["id"])
        assert ask is not None, "an answer to a request that nobody made"
        assert not ask.answers, "a second final answer"
        robot, route = command.envelope
        assert robot == ask.id.client.rstrip(), "somebody else's answer"
        assert route == ask.route, "an answer to a route that is gone"
        ask.answers.append((self.now, command.header))
        self.payloads[ask.id] = [bytes(frame) for frame in command.payload]  # type: ignore[arg-type]

    def _to_worker(self, command: ToWorker) -> list[Event]:
        name, header = command.worker.decode(), command.header
        if name in self.gone:
            return [WorkerUnreachable(command.worker)]
        if header["kind"] == "infer":
            self.given.append((name, header))
            self.hands[name].append((header["id"], header["attempt"]))
            assert len(self.hands[name]) <= self.slots[name], "more work than slots"
        elif header["kind"] == "heartbeat":
            self.beats[name] = header["n"]
            if name not in self.silent:
                echo = {"v": 1, "kind": "heartbeat", "epoch": self.epoch, "n": header["n"]}
                echo |= {"ids": list(self.hands[name])}
                return [WorkerMessage(command.worker, echo, ())]
        else:
            self.told[name].append(header)
        return []
