"""Workers and the leases that they have in hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.events import Payload
from broker.requests import Request
from broker.states import WORKER_MOVES, WorkerState, move
from client.wire import RequestId

_RECENT = 64  # inferences whose times predict the next one
FORGOTTEN_S = 60.0  # longer than a restart takes: until then a worker may come back
_SMOOTHING = 0.2  # weight of the newest in the running mean
_READY = WorkerState.READY  # Python 3.11 looks a member of an enumeration up by a call


@dataclass(slots=True, eq=False)
class Lease:
    """One attempt at a request by one worker."""

    request: Request
    worker: Worker
    attempt: int
    started_at: float
    waited_s: float  # in the queue, before this lease
    length_s: float  # how long the worker may take
    beat: int  # number of the last heartbeat sent before this lease
    slept_s: float  # how long the core had slept in all before this lease
    overdue: bool = False
    expected_s: float | None = None  # of a slot's time, where lanes share a policy's workers


@dataclass(slots=True, eq=False)
class Worker:
    """One incarnation of one worker process. Times are the core's, in seconds."""

    id: bytes  # routing id, fresh for every incarnation
    policy: str
    digest: str | None  # None: not known yet, its files are being downloaded
    horizon: int
    metadata: Payload
    heard_at: float
    state: WorkerState = WorkerState.WARMING
    slots: int = 1  # of which it may be given as many now
    total: int = 1  # of which there are as many, shared with other brokers
    grant: int | None = None  # the number of what it said last of its slots; None: they are ours
    in_hand: dict[tuple[RequestId, int], Lease] = field(default_factory=dict)
    mean_s: float = 0.1  # of its recent inferences, from lease to result
    is_timed: bool = False  # False: `mean_s` is a guess
    recent_s: deque[float] = field(default_factory=deque)
    slowest_s: float = 0.0  # of the recent ones
    leased_at: float = 0.0  # when it was last given work
    joined_at: float = 0.0
    is_loaded: bool = False  # it said so in its hello: `ready` follows at once
    is_retired: bool = False  # it was told to leave
    free: dict[bytes, Worker] = field(default_factory=dict)  # those of its policy with a free slot

    @property
    def name(self) -> str:
        """Its name in log lines."""
        return f"{self.policy}/{self.id.hex()[:8]}"

    @property
    def about(self) -> dict[str, str]:
        """The fields of a log line about it."""
        return {"policy": self.policy, "worker": self.id.hex()[:8]}

    @property
    def free_slots(self) -> int:
        """How many more requests it may be given now."""
        return self.slots - len(self.in_hand) if self.state is _READY else 0

    @property
    def can_answer(self) -> bool:
        """Whether it answers what it is given, now or as soon as it is trusted again."""
        if self.state is WorkerState.WARMING:
            return self.is_loaded
        return self.state in (WorkerState.READY, WorkerState.SUSPECT)

    @property
    def capacity(self) -> int:
        """How many slots it may come to give us."""
        return self.slots if self.grant is None else max(self.slots, self.total)

    def regrant(self, slots: int, grant: int) -> bool:
        """Take in how many slots it lets us have now; True if they have become fewer."""
        is_fewer = slots < self.slots
        self.slots, self.grant = slots, grant
        self._enlist()
        return is_fewer

    def move(self, cause: str) -> None:
        """Change state as the table says."""
        self.state = move(WORKER_MOVES, self.state, cause)
        self._enlist()

    def hold(self, lease: Lease) -> None:
        """Add a lease."""
        self.in_hand[lease.request.id, lease.attempt] = lease
        self._enlist()

    def let_go(self, lease: Lease) -> None:
        """Remove a lease."""
        del self.in_hand[lease.request.id, lease.attempt]
        self._enlist()

    def took(self, seconds: float) -> None:
        """Remember how long an inference took."""
        recent = self.recent_s
        if not recent:
            self.mean_s = seconds
            self.is_timed = True
        self.mean_s += _SMOOTHING * (seconds - self.mean_s)
        recent.append(seconds)
        if len(recent) > _RECENT and recent.popleft() == self.slowest_s:
            self.slowest_s = max(recent)
        elif seconds > self.slowest_s:
            self.slowest_s = seconds

    def expect(self, seconds: float) -> None:
        """Believe the worker's own measurement until there are better ones."""
        if not self.recent_s:
            self.mean_s = seconds
            self.is_timed = True

    def not_in_hand(self, beat: int, ids: Iterable[tuple[RequestId, int]]) -> list[Lease]:
        """The leases that this worker does not have, as its answer to heartbeat `beat` proves.

        Whatever was sent to it before that heartbeat has either reached it or was lost with a
        connection. And a result that it sent before this answer has also arrived before it.
        """
        held = set(ids)
        return [
            lease for key, lease in self.in_hand.items() if lease.beat < beat and key not in held
        ]

    def _enlist(self) -> None:
        if self.state is _READY and len(self.in_hand) < self.slots:
            self.free[self.id] = self
        else:
            self.free.pop(self.id, None)


@dataclass(slots=True)
class Pool:
    """All workers, by routing id and by the policy that they serve."""

    by_id: dict[bytes, Worker] = field(default_factory=dict)
    by_policy: dict[str, dict[bytes, Worker]] = field(default_factory=dict)  # names stay for good
    free: dict[str | None, dict[bytes, Worker]] = field(default_factory=dict)  # with a free slot
    left_at: dict[str, float] = field(default_factory=dict)  # when a policy last lost a worker
    metadata: dict[str, Payload] = field(default_factory=dict)  # by policy, never removed
    expected: frozenset[str] = frozenset()  # policies whose workers are started when needed
    # Workers that have other brokers too, and were told last that nothing waits here.
    unasked: dict[str | None, dict[bytes, Worker]] = field(default_factory=dict)
    beats: int = 0  # heartbeats sent to every worker so far

    def expect(self, policies: Iterable[str]) -> None:
        """Know these policies from the start: what asks for them waits for their workers."""
        self.expected = frozenset(policies)
        for policy in policies:
            self.by_policy.setdefault(policy, {})

    def add(self, worker: Worker) -> None:
        """Add a worker."""
        self.by_id[worker.id] = worker
        self.by_policy.setdefault(worker.policy, {})[worker.id] = worker
        worker.free = self.free.setdefault(worker.policy, {})

    def remove(self, worker: Worker, now: float) -> None:
        """Remove a worker; the name of its policy stays known."""
        del self.by_id[worker.id]
        del self.by_policy[worker.policy][worker.id]
        self.unasked.get(worker.policy, {}).pop(worker.id, None)
        self.left_at[worker.policy] = now

    def names(self, now: float) -> list[str]:
        """The policies that a request without a name may mean.

        They are those expected, and those served now or in the last `FORGOTTEN_S`; if there are
        none, all that were ever served.
        """
        recent = [
            policy
            for policy, workers in self.by_policy.items()
            if workers or policy in self.expected or now - self.left_at[policy] < FORGOTTEN_S
        ]
        return recent or list(self.by_policy)

    def slots(self, policy: str | None) -> int:
        """All slots of a policy's workers that may be given work."""
        return sum(w.capacity for w in self.serving(policy) if w.state is WorkerState.READY)

    def serves_since(self, policy: str) -> float | None:
        """When the first of a policy's workers that can answer joined; None if there is none."""
        for worker in self.by_policy.get(policy, {}).values():  # in the order in which they came
            if worker.can_answer:
                return worker.joined_at
        return None

    def serving(self, policy: str | None) -> list[Worker]:
        """The workers of a policy, in any state but GONE."""
        return list(self.by_policy.get(policy, {}).values()) if policy is not None else []
