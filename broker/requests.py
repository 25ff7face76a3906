"""Requests, and the queues in which they wait for workers."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field

from broker.agenda import Agenda
from broker.events import Payload
from broker.fairness import Fairness
from broker.shares import USUAL, FairQueue, Lane
from broker.states import REQUEST_MOVES, RequestState, move
from client.wire import Header, RequestId

_OPEN = frozenset({RequestState.WAITING, RequestState.LEASED})


@dataclass(slots=True, eq=False)
class Request:
    """One `infer` from its arrival to its final answer. Times are the core's, in seconds."""

    id: RequestId
    envelope: Payload
    header: Header
    payload: Payload
    size: int  # bytes of payload
    policy: str | None  # the full name that answers it; None: the only one that is served
    queued_at: float  # when it last began to wait
    deadline: float
    robot: Hashable = b""  # who has it in hand, for `Accounts`
    lane: Lane = USUAL
    base: str = ""  # the name of which `policy` is the version that was chosen, if it is one
    session: tuple[bytes, str] = field(init=False)  # at most one request of each waits
    turn: tuple[int, float] = field(init=False)  # priority class (0 first), then deadline
    state: RequestState = RequestState.WAITING
    attempt: int = 0  # leases so far
    holders: int = 0  # workers that have it in hand
    leased_at: float = 0.0
    worker: bytes = b""  # whose answer it got

    def __post_init__(self) -> None:
        """Take from the header what scheduling needs often."""
        self.session = self.id.client, self.header.get("session", "")
        self.turn = self.header.get("priority", 1), self.deadline

    @property
    def is_final(self) -> bool:
        """Has it been answered, by a result or an error?"""
        return self.state not in _OPEN

    def move(self, cause: str) -> None:
        """Change state as the table says."""
        self.state = move(REQUEST_MOVES, self.state, cause)


@dataclass(slots=True)
class WaitingRoom:
    """Waiting requests by policy, in order of priority class and then of deadline.

    As soon as one of another lane than the usual waits for a policy, they are in lanes.
    """

    fairness: Fairness
    queues: dict[str | None, Agenda[Request] | FairQueue] = field(default_factory=dict)
    sessions: dict[tuple[bytes, str], Request] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sessions)

    def add(self, request: Request) -> Request | None:
        """Let a request wait; returns the one of its session that is displaced.

        That is the request itself if a newer one of its session waits already.
        """
        displaced = self.sessions.get(request.session)
        if displaced is not None:
            if displaced.id.sequence > request.id.sequence:
                return request  # an older one that is retried or late must not displace a newer one
            self.remove(displaced)
        self.sessions[request.session] = request
        queue = self.queues.get(request.policy)
        if queue is None:
            queue = self.queues[request.policy] = Agenda()
        if request.lane is not USUAL and isinstance(queue, Agenda):
            shares = self.fairness.shares_of(request.policy)
            queue = self.queues[request.policy] = FairQueue(shares, queue)
        queue.add(request.turn, request)
        return displaced

    def remove(self, request: Request) -> None:
        """Take a request out, if it waits."""
        if self.sessions.get(request.session) is request:
            del self.sessions[request.session]
            queue = self.queues[request.policy]
            queue.discard(request)
            self._forget_if_empty(request.policy)
            if not queue and self.fairness.is_on:
                self.fairness.rest(request.policy)

    def take(self, policy: str | None, slots: int = 0) -> Request | None:
        """Take out the request that is to be served next, by a policy with so many `slots` in all.

        None if none of those that wait may have a slot now.

        Raises:
            KeyError: none waits for this policy.
        """
        queue = self.queues[policy]
        request = queue.pop() if isinstance(queue, Agenda) else queue.pop(slots)
        if request is None:
            return None
        del self.sessions[request.session]
        self._forget_if_empty(policy)
        return request

    def waiting_for(self, policy: str | None) -> int:
        """How many wait for a policy."""
        queue = self.queues.get(policy)
        return len(queue) if queue is not None else 0

    def served_before(self, request: Request) -> int:
        """How many waiting requests would be served before one that is not waiting yet.

        An older one of its session does not count, as the new one will replace it.
        """
        queue = self.queues.get(request.policy)
        if queue is None:
            return 0
        older = self.sessions.get(request.session)
        is_counted = older is not None and older in queue and older.turn <= request.turn
        if isinstance(queue, Agenda):
            return queue.count_until(request.turn) - is_counted
        is_counted = is_counted and older is not None and older.lane is request.lane
        return queue.count_before(request) - is_counted

    def all_for(self, policy: str | None) -> Iterator[Request]:
        """Those that wait for a policy, in no particular order."""
        return iter(self.queues.get(policy, ()))

    def _forget_if_empty(self, policy: str | None) -> None:
        if not self.queues[policy]:
            del self.queues[policy]
