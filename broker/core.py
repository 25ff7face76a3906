"""The broker's core: events in, commands out; no sockets, no clock, no threads, no randomness.

Two facts keep it small. Inference is pure, so any request may be computed again and no reply has
to be kept: a request that comes again while it is in hand is joined to the first, and one that
comes again after its answer is computed once more. And a session has at most one request
waiting, so the queues cannot grow beyond the number of sessions.

`Core` only puts the parts together and passes events to them. The parts call each other downwards
only, in the order of layers that `broker/__init__.py` lists.
"""

from __future__ import annotations

from broker import events
from broker.config import BrokerConfig
from broker.events import Command, Event, RobotMessage, WorkerMessage
from broker.fairness import Fairness
from broker.inflight import InFlight
from broker.leases import Leases
from broker.names import Names
from broker.outbox import Outbox
from broker.registry import Registry
from broker.robots import Robots
from broker.rollouts import Rollouts
from broker.teams import Teams
from broker.telemetry import Telemetry
from broker.versions import Versions
from broker.workers import Pool


class Core:
    """`handle` one event after another, and call it with a `Tick` no later than `wake_at`.

    `now` is a monotonic time in seconds and never decreases.
    """

    def __init__(
        self, config: BrokerConfig, epoch: int, now: float, teams: Teams | None = None
    ) -> None:
        self.config = config
        self.telemetry = Telemetry(now)
        self.counters = self.telemetry.counters
        self.pool = Pool()
        self.pool.expect(config.policies)
        self.outbox = Outbox(epoch, self.counters)
        self.inflight = InFlight(
            config.limits, self.outbox, self.counters, Fairness(config.fairness, teams or {})
        )
        limits = config.limits
        self.versions = Versions(limits.max_episodes, limits.episode_idle_s, self.counters)
        for policy in config.policies:
            self.versions.add(policy, self.pool.by_policy)
        self.names = Names(self.pool, self.inflight, self.versions, now)
        self.leases = Leases(
            self.pool, self.inflight, self.names, self.outbox, self.telemetry, config.timers
        )
        self.registry = Registry(
            config,
            self.pool,
            self.leases,
            self.names,
            self.versions,
            self.outbox,
            self.counters,
            now,
        )
        self.robots = Robots(
            config.limits,
            self.pool,
            self.inflight,
            self.leases,
            self.names,
            self.versions,
            self.outbox,
            self.telemetry,
        )
        rollouts = Rollouts(self.pool, self.inflight, self.names, self.versions, self.outbox)
        self.robots.kinds["rollout"] = rollouts.receive
        self._wake_at = now

    def handle(self, event: Event, now: float) -> list[Command]:
        """Process one event; returns the commands that follow from it, in order."""
        if now > self._wake_at:  # nobody was there to call it
            self.leases.slept_s += now - self._wake_at
        if isinstance(event, RobotMessage):
            self.robots.kinds[event.header["kind"]](event, now)
        elif isinstance(event, WorkerMessage):
            self.registry.receive(event, now)
        elif isinstance(event, events.WorkerUnreachable):
            self.registry.remove(event.worker, "its connection is gone", now)
        elif isinstance(event, events.ConnectionLost):
            self.registry.probe(event.workers, now)
        elif isinstance(event, events.Stop):
            self.inflight.drain()
        if now >= self._wake_at:
            self.leases.check(now)
            self.registry.check(now)
            self.names.check(now)
            self.leases.expire(now)
        if self.inflight.waiting.queues:
            self.leases.dispatch(now)
        self._wake_at = self._next_change()
        commands, self.outbox.commands = self.outbox.commands, []
        return commands

    def wake_at(self) -> float:
        """When the passing of time will next change something; `now` is before it."""
        return self._wake_at

    @property
    def in_hand(self) -> int:
        """Requests accepted and not answered yet."""
        return len(self.inflight.requests)

    def _next_change(self) -> float:
        moment: float = self.registry.beat_at
        if self.names.wake_at < moment:
            moment = self.names.wake_at
        lease_end = self.leases.ends.first_key()
        if lease_end is not None and lease_end < moment:
            moment = lease_end
        deadline = self.inflight.deadlines.first_key()
        if deadline is not None and deadline < moment:
            moment = deadline
        return moment
