"""A simulation as data: who takes part, and what happens to them when.

Whatever is not written here (how long a message travels, an inference takes) derives from the
seed, so a schedule says everything, and one with steps left out is a schedule again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from broker.config import BrokerConfig, FairnessConfig, Limits, Timers
from broker.teams import Team

if TYPE_CHECKING:
    from tests.simulation.world import World

EFFECTS = ("good", "bad", "kills", "empty", "garbled", "bloated")
"""Of an observation: `bad` is refused by the policy, `kills` ends its worker, `empty` has no body,
`garbled` cannot be decoded, and the answer to `bloated` is larger than a broker takes."""

_LIE_EVERY_S = 0.02


@dataclass(frozen=True)
class WorkerSpec:
    """A worker. `batched`: it computes all that it holds at once, else one after another.

    `downloads`: it knows the digest of its files only when it is warm.
    """

    policy: str = "a"
    slots: int = 1
    inference_s: float = 0.03
    batched: bool = False
    warm_up_s: float = 0.1
    delay_s: float = 0.0005
    digest: str = "d"
    downloads: bool = False


@dataclass(frozen=True)
class RobotSpec:
    """A robot. `pipelines`: sends without waiting for answers; `names_requests`: gives ids."""

    pipelines: bool = False
    names_requests: bool = True
    delay_s: float = 0.0005
    team: str = ""
    traffic: str = "live"

    def told(self) -> dict[str, str]:
        """The header fields by which the broker knows its lane."""
        told = {"robot": f"of {self.team}"} if self.team else {}
        return told if self.traffic == "live" else {**told, "traffic": self.traffic}


@dataclass(frozen=True)
class TeamSpec:
    """A team; robots that name it are its members."""

    name: str = "x"
    weight: float = 1.0
    max_requests: int | None = None
    max_rate: float | None = None
    max_share: float | None = None

    @property
    def has_quotas(self) -> bool:
        """May it be refused or held back?"""
        return (self.max_requests, self.max_rate, self.max_share) != (None, None, None)


def way(peer: str, broker: int) -> str:
    """The name of the link between a peer and a broker."""
    return f"{peer}@{broker}" if broker else peer


@dataclass(frozen=True)
class Setting:
    """Everything but what happens. Times in seconds unless the name says milliseconds."""

    workers: tuple[WorkerSpec, ...] = (WorkerSpec(),)
    robots: tuple[RobotSpec, ...] = (RobotSpec(),)
    heartbeat_ms: float = 100.0
    suspect_ms: float = 400.0
    shortest_lease_ms: float = 250.0
    drain_ms: float = 300.0
    max_bytes: int = 1_000
    max_requests: int = 100
    max_requests_per_robot: int = 64
    max_total_bytes: int = 100_000
    max_workers: int = 10
    default_deadline_s: float = 1.0
    hang_up_s: float = 1.0  # of silence, after which ZeroMQ's heartbeats end a connection
    reconnect_max_s: float = 0.3
    brokers: int = 1  # links to the second are called w0@1, r0@1 and so on
    teams: tuple[TeamSpec, ...] = ()
    evaluation_share: float = 0.1
    reserve_live: int = 0

    def team_settings(self) -> dict[str, Team]:
        """As the core takes them."""
        return {
            each.name: Team(
                [f"of {each.name}"],
                each.weight,
                max_requests=each.max_requests,
                max_rate=each.max_rate,
                max_share=each.max_share,
            )
            for each in self.teams
        }

    def broker_config(self) -> BrokerConfig:
        """As the core takes it."""
        limits = Limits(
            max_bytes=self.max_bytes,
            max_requests=self.max_requests,
            max_requests_per_robot=self.max_requests_per_robot,
            max_total_bytes=self.max_total_bytes,
            max_workers=self.max_workers,
            default_deadline_s=self.default_deadline_s,
        )
        timers = Timers(
            heartbeat_ms=self.heartbeat_ms,
            suspect_ms=self.suspect_ms,
            shortest_lease_ms=self.shortest_lease_ms,
            drain_ms=self.drain_ms,
        )
        fairness = FairnessConfig(self.evaluation_share, self.reserve_live)
        return BrokerConfig(limits=limits, timers=timers, fairness=fairness)


@dataclass(frozen=True)
class Step:
    """Something that happens at a moment, in seconds from the start."""

    at: float

    def happen(self, world: World) -> None:
        """Do it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Ask(Step):
    """A robot's program calls `infer`; `effect` is one of `EFFECTS`."""

    robot: int
    deadline_s: float = 1.0
    policy: str | None = "a"
    session: str = ""
    priority: int = 1
    size: int = 20
    effect: str = "good"

    def happen(self, world: World) -> None:
        world.ask(self)


@dataclass(frozen=True)
class AskAgain(Step):
    """A pipelining robot sends its last request once more, with the same id."""

    robot: int

    def happen(self, world: World) -> None:
        world.robots[self.robot].again()


@dataclass(frozen=True)
class Call(Step):
    """A robot's program calls something else: reset, metadata, ping or status."""

    robot: int
    kind: str = "reset"
    policy: str | None = None
    session: str = ""

    def happen(self, world: World) -> None:
        world.call(self)


@dataclass(frozen=True)
class Rollout(Step):
    """An operator makes a plan for the versions of a policy, and has some of them leave."""

    stable: str | None
    candidate: str | None = None
    share: float = 0.0
    move: bool = False
    retire: tuple[str, ...] = ()
    policy: str = "a"
    broker: int = 0

    def happen(self, world: World) -> None:
        world.roll_out(self)


@dataclass(frozen=True)
class Crash(Step):
    """kill -9 of a worker; another one takes its place after `back_s`, or never."""

    worker: int
    back_s: float | None = 0.2

    def happen(self, world: World) -> None:
        world.workers[self.worker].crash(self.back_s)


@dataclass(frozen=True)
class Drain(Step):
    """SIGTERM to a worker; another one takes its place after it has left."""

    worker: int
    back_s: float | None = 0.2

    def happen(self, world: World) -> None:
        world.workers[self.worker].drain(self.back_s)


@dataclass(frozen=True)
class Stall(Step):
    """SIGSTOP to a worker, SIGCONT after a while."""

    worker: int
    seconds: float

    def happen(self, world: World) -> None:
        world.workers[self.worker].stall(self.seconds)


@dataclass(frozen=True)
class Hang(Step):
    """A worker's device does nothing for a while; its heartbeats go on."""

    worker: int
    seconds: float

    def happen(self, world: World) -> None:
        world.workers[self.worker].hang(self.seconds)


@dataclass(frozen=True)
class Slow(Step):
    """A worker takes `factor` times as long for a while."""

    worker: int
    factor: float
    seconds: float

    def happen(self, world: World) -> None:
        world.workers[self.worker].slow(self.factor, self.seconds)


@dataclass(frozen=True)
class Forge(Step):
    """A worker lies again and again for a while; `lie` is one of `worker_seat.LIES`."""

    worker: int
    lie: str
    seconds: float = 0.0

    def happen(self, world: World) -> None:
        for time in range(1 + int(self.seconds / _LIE_EVERY_S)):
            world.clock.after(time * _LIE_EVERY_S, world.workers[self.worker].forge, self.lie)


@dataclass(frozen=True)
class Refuse(Step):
    """The broker's queue for a worker is full for a while, so sends to it fail."""

    worker: int
    seconds: float

    def happen(self, world: World) -> None:
        world.workers[self.worker].refuse(self.seconds)


@dataclass(frozen=True)
class Cut(Step):
    """A peer's connection breaks; `hint` of the broker's monitor: right, wrong or none."""

    peer: str  # w0, w1, ..., r0, r1, ...
    peer_after_s: float = 0.001
    broker_after_s: float = 0.001
    hint: str = "right"

    def happen(self, world: World) -> None:
        for connection in list(world.links[self.peer].connections):
            connection.cut(self.peer_after_s, self.broker_after_s, self.hint)


@dataclass(frozen=True)
class Partition(Step):
    """Some peers and the broker cannot reach each other for a while; nobody is told."""

    peers: tuple[str, ...]
    seconds: float

    def happen(self, world: World) -> None:
        for peer in self.peers:
            world.links[peer].block()
            world.clock.after(self.seconds, world.links[peer].unblock)


@dataclass(frozen=True)
class Delay(Step):
    """A peer's messages take longer for a while."""

    peer: str
    extra_s: float
    seconds: float

    def happen(self, world: World) -> None:
        world.delay(self.peer, self.extra_s)
        world.clock.after(self.seconds, world.delay, self.peer, 0.0)


@dataclass(frozen=True)
class Mislead(Step):
    """A robot with our client gets its next answer under the id of another request."""

    robot: int

    def happen(self, world: World) -> None:
        world.mislead(self.robot)


@dataclass(frozen=True)
class Restart(Step):
    """The broker is killed, or told to stop if `gently`, and started again."""

    down_s: float
    gently: bool = False
    broker: int = 0

    def happen(self, world: World) -> None:
        world.restart(self.down_s, self.gently, self.broker)


@dataclass(frozen=True)
class Pause(Step):
    """SIGSTOP to the broker, SIGCONT after a while; `only_busy`: only its own thread stands still.

    Then connections come and go, and what they bring is read in any order.
    """

    seconds: float
    only_busy: bool = False
    broker: int = 0

    def happen(self, world: World) -> None:
        world.brokers[self.broker].pause(self.only_busy)
        world.clock.after(self.seconds, world.brokers[self.broker].resume)


@dataclass(frozen=True)
class Jump(Step):
    """The broker's clock jumps forward."""

    seconds: float
    broker: int = 0

    def happen(self, world: World) -> None:
        world.brokers[self.broker].jump(self.seconds)


@dataclass(frozen=True)
class Schedule:
    """A whole simulation."""

    seed: int
    setting: Setting = field(default_factory=Setting)
    steps: tuple[Step, ...] = ()
