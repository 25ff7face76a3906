"""Workers as the broker knows them, and what each has in hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from broker.events import Payload
from broker.requests import Request
from broker.states import WORKER_MOVES, WorkerState, move
from client.wire import RequestId

_RECENT = 64  # inferences whose times predict the next one
FORGOTTEN_S = 60.0  # a restart does not take so long: whoever is gone for longer was taken away
_SMOOTHING = 0.2  # weight of the newest in the running mean


@dataclass(slots=True, eq=False)
class Lease:
    """One attempt at a request by one worker."""

    request: Request
    worker: Worker
    attempt: int
    started_at: float
    waited_s: float  # before it
    length_s: float  # what the worker may take
    beat: int  # the last heartbeat that went to all workers before this
    overdue: bool = False


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
    slots: int = 1
    in_hand: dict[tuple[RequestId, int], Lease] = field(default_factory=dict)
    mean_s: float = 0.1  # of its recent inferences, seen from here
    is_timed: bool = False  # or of what it says of itself; until then that is a guess
    recent_s: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    leased_at: float = 0.0  # when it was last given work
    free: dict[bytes, Worker] = field(default_factory=dict)  # all of its policy with a free slot

    @property
    def name(self) -> str:
        """How log lines call it."""
        return f"{self.policy}/{self.id.hex()[:8]}"

    @property
    def about(self) -> dict[str, str]:
        """What a log line about it is tagged with."""
        return {"policy": self.policy, "worker": self.id.hex()[:8]}

    @property
    def free_slots(self) -> int:
        """How many more requests it may be given now."""
        return self.slots - len(self.in_hand) if self.state is WorkerState.READY else 0

    def move(self, cause: str) -> None:
        """Change state as the table says."""
        self.state = move(WORKER_MOVES, self.state, cause)
        self._enlist()

    def hold(self, lease: Lease) -> None:
        """Take a lease in hand."""
        self.in_hand[lease.request.id, lease.attempt] = lease
        self._enlist()

    def let_go(self, lease: Lease) -> None:
        """Have a lease in hand no more."""
        del self.in_hand[lease.request.id, lease.attempt]
        self._enlist()

    def took(self, seconds: float) -> None:
        """Remember how long an inference took."""
        if not self.recent_s:
            self.mean_s = seconds
            self.is_timed = True
        self.mean_s += _SMOOTHING * (seconds - self.mean_s)
        self.recent_s.append(seconds)

    def expect(self, seconds: float) -> None:
        """Believe the worker's own measurement until there are better ones."""
        if not self.recent_s:
            self.mean_s = seconds
            self.is_timed = True

    def not_in_hand(self, beat: int, ids: Iterable[tuple[RequestId, int]]) -> list[Lease]:
        """The leases of which a heartbeat proves that this worker doesn't have them.

        The worker answered heartbeat `beat`, so everything sent to it before that one either
        reached it or was lost with a connection; results it sent before this came before it.
        """
        held = set(ids)
        return [
            lease for key, lease in self.in_hand.items() if lease.beat < beat and key not in held
        ]

    def _enlist(self) -> None:
        if self.free_slots > 0:
            self.free[self.id] = self
        else:
            self.free.pop(self.id, None)


@dataclass(slots=True)
class Pool:
    """All workers, by routing id and by the policy that they serve."""

    by_id: dict[bytes, Worker] = field(default_factory=dict)
    by_policy: dict[str, dict[bytes, Worker]] = field(default_factory=dict)  # names stay for ever
    free: dict[str | None, dict[bytes, Worker]] = field(default_factory=dict)  # with a free slot
    left_at: dict[str, float] = field(default_factory=dict)  # when a policy last lost a worker
    metadata: dict[str, Payload] = field(default_factory=dict)  # by policy; it stays too
    beats: int = 0  # heartbeats sent to every worker so far

    def add(self, worker: Worker) -> None:
        """Take a worker in."""
        self.by_id[worker.id] = worker
        self.by_policy.setdefault(worker.policy, {})[worker.id] = worker
        worker.free = self.free.setdefault(worker.policy, {})

    def remove(self, worker: Worker, now: float) -> None:
        """Take a worker out; its policy's name stays known."""
        del self.by_id[worker.id]
        del self.by_policy[worker.policy][worker.id]
        self.left_at[worker.policy] = now

    def names(self, now: float) -> list[str]:
        """The policies that one who names none may mean: served now, or a moment ago.

        All that were ever served, if none of them is any more.
        """
        recent = [
            policy
            for policy, workers in self.by_policy.items()
            if workers or now - self.left_at[policy] < FORGOTTEN_S
        ]
        return recent or list(self.by_policy)

    def serving(self, policy: str | None) -> list[Worker]:
        """The workers of a policy, in any state but GONE."""
        return list(self.by_policy.get(policy, {}).values()) if policy is not None else []
