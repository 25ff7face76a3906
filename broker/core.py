"""The broker's mind: events in, commands out; no sockets, no clock, no threads, no randomness.

Two facts keep it small. Inference is pure, so a request may be computed again, and there is no
cache of replies: an id still in hand is joined, one already answered is computed anew. And a
session has at most one request waiting, so queues cannot grow beyond the number of robots.

This half answers robots; `broker.fleet` keeps the workers.
"""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from broker import events
from broker.accounts import Accounts
from broker.agenda import Agenda
from broker.config import BrokerConfig
from broker.events import Command, Event, Log, Payload, RobotMessage, ToRobot
from broker.fleet import Fleet
from broker.requests import Request, WaitingRoom
from broker.states import RequestState, WorkerState
from broker.status import Notebook, report
from client import errors
from client.body import encode_body
from client.version import __version__
from client.wire import LONGEST_MS, VERSION, Header, RequestId

LEARNING_S = 2.0  # after a start, workers need this long to say what they serve
# Nearly all have said it by then (client.connection.RECONNECT_MAX_MS): a restart must not send a
# robot that names no policy to another one than before.
NAMELESS_S = 0.5
_EXPECTED = (errors.Superseded, errors.Cancelled, errors.Draining)  # what robots may cause daily
_RETRY_MS = 1000.0  # where nothing better is known


class Core:
    """`handle` one event after another, and call it with a `Tick` no later than `wake_at`.

    `now` is a monotonic time in seconds and never decreases.
    """

    def __init__(self, config: BrokerConfig, epoch: int, now: float) -> None:
        self.config = config
        self.counters: Counter[str] = Counter()
        self._commands: list[Command] = []
        self._requests: dict[RequestId, Request] = {}
        self._accounts = Accounts(config.limits)
        self.notebook = Notebook(now)
        self._waiting = WaitingRoom()
        self._deadlines: Agenda[Request] = Agenda()
        self._fleet = Fleet(self, epoch, now)
        self._learned_at = now + LEARNING_S
        self._heard_at = now + NAMELESS_S
        self._anonymous = 0  # requests so far of clients that give no id
        self._stopping = False
        self._wake_at = now
        self._kinds: dict[str, Callable[[RobotMessage, float], None]] = {
            "infer": self._infer,
            "reset": self._reset,
            "metadata": self._metadata,
            "ping": self._ping,
            "status": self._status,
        }

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take in one event; returns what is to be done about it, in order."""
        if isinstance(event, RobotMessage):
            self._kinds[event.header["kind"]](event, now)
        elif isinstance(event, events.WorkerMessage):
            self._fleet.hear(event, now)
        elif isinstance(event, events.WorkerUnreachable):
            self._fleet.lose(event.worker, "its connection is gone", now)
        elif isinstance(event, events.ConnectionLost):
            self._fleet.question(event.workers, now)
        elif isinstance(event, events.Stop):
            self._stop(now)
        if now >= self._wake_at:
            self._fleet.check(now)
            self._check_deadlines(now)
        if self._waiting.queues:
            self._fleet.dispatch(self._waiting, now)
        self._wake_at = self._next_change()
        commands, self._commands = self._commands, []
        return commands

    def wake_at(self) -> float:
        """When time alone will change something."""
        return self._wake_at

    @property
    def in_hand(self) -> int:
        """Requests accepted and not answered yet."""
        return len(self._requests)

    # What the fleet needs of this half.

    def command(self, command: Command) -> None:
        """Have something done."""
        self._commands.append(command)

    def log(self, level: int, text: str, **about: str) -> None:
        """Have something written to the log, with what it is about."""
        self._commands.append(Log(level, text, about))

    def requeue(self, request: Request, now: float) -> None:
        """A lease came to nothing: let the request wait for another worker."""
        request.move("requeue")
        request.queued_at = now
        displaced = self._waiting.add(request)
        if displaced is not None:
            self._supersede(displaced)

    def answer(self, request: Request, header: Header, payload: Payload) -> None:
        """Give a request its result."""
        self._settle(request, "answer")
        if "id" in request.header:
            header["id"] = request.id
        self._commands.append(ToRobot(request.envelope, header, payload))

    def fail(self, request: Request, error: errors.PolicyError, cause: str = "fail") -> None:
        """Give a request an error as its final answer."""
        self._settle(request, cause)
        level = logging.DEBUG if isinstance(error, _EXPECTED) else logging.WARNING
        robot = request.header.get("robot", "")
        text = f"a request got no result: {type(error).__name__}: {error}"
        self.log(level, text, request=str(request.id), robot=robot)
        self._refuse(request.envelope, request.header, error)

    def learned(self, now: float) -> None:
        """A name is served for the first time: those that named none may mean it."""
        if now < self._heard_at:
            return
        for request in list(self._waiting.all_for(None)):
            try:
                self._waiting.remove(request)
                request.policy = self._resolve(None, now)
                self._waiting.add(request)
            except errors.PolicyError as error:
                self.fail(request, error)

    # Robots.

    def _infer(self, message: RobotMessage, now: float) -> None:
        header = message.header
        known = self._requests.get(header["id"]) if "id" in header else None
        if known is not None:
            self.counters["joined"] += 1
            # Of two askings the newer has less time left: an older one that comes late is not it.
            left_ms = header.get("deadline_ms", 0.0)
            if left_ms <= known.header.get("deadline_ms", 0.0):
                known.header["deadline_ms"] = left_ms
                known.envelope = message.envelope
            return
        try:
            request = self._accept(message, now)
        except errors.PolicyError as error:
            self._refuse(message.envelope, header, error)
            return
        displaced = self._waiting.add(request)
        if displaced is request:
            self._refuse(message.envelope, header, errors.Superseded("a newer observation waits"))
            return
        if displaced is not None:
            self._supersede(displaced)
        self.counters["accepted"] += 1
        self._requests[request.id] = request
        self._accounts.take(request.robot, request.size)
        self.notebook.saw(request.id.client, message, now)
        self._deadlines.add(request.deadline, request)

    def _accept(self, message: RobotMessage, now: float) -> Request:
        header, limits = message.header, self.config.limits
        if not message.payload:
            raise errors.ProtocolError("the body is missing: send [header, body, buffers...]")
        size = sum(map(len, message.payload))
        if size > limits.max_bytes:
            raise errors.MessageTooLarge(
                f"the message has {size} bytes, {limits.max_bytes} are allowed (limits.max_bytes)"
            )
        if self._stopping:
            raise _draining()
        policy = header.get("policy")
        if now >= (self._heard_at if policy is None else self._learned_at):
            policy = self._resolve(policy, now)  # else its workers may not have said hello yet
        left_s = header.get("deadline_ms", limits.default_deadline_s * 1e3) / 1e3
        robot = message.peer or message.sender
        identity = header.get("id")
        if identity is None:
            self._anonymous += 1
            identity = RequestId(message.sender, self._anonymous)
        until = now + left_s
        request = Request(
            identity, message.envelope, header, message.payload, size, policy, now, until, robot
        )
        self._admit(request, left_s)
        return request

    def _admit(self, request: Request, left_s: float) -> None:
        requests, size, policy = 1, request.size, request.policy
        older = self._waiting.sessions.get(request.session)
        if older is not None and older.robot == request.robot:
            requests, size = 0, size - older.size  # it takes that one's place
        reason = self._accounts.why_not(request.robot, requests, size)
        ahead = self._waiting.waiting_for(policy)
        wait_s = self._fleet.wait_s(policy, ahead)
        if left_s <= 0.0:
            raise errors.DeadlineExceeded("the deadline had passed when the request came")
        if not reason and wait_s > left_s:
            reason = f"{ahead} requests wait: its turn would come after its deadline"
        if not reason:
            return
        error = errors.Overloaded(f"{reason}; try again later or start more workers")
        error.retry_after_s = min(wait_s or _RETRY_MS / 1e3, LONGEST_MS / 1e3)
        raise error

    def _resolve(self, policy: str | None, now: float) -> str | None:
        names = self._fleet.pool.by_policy
        if policy in names or (policy is None and not names):
            return policy
        if policy is None:
            one, *others = self._fleet.pool.names(now)
            if not others:
                return one
            served = ", ".join(sorted([one, *others]))
            raise errors.AmbiguousPolicy(f"name a policy: {served} are served")
        close = difflib.get_close_matches(policy, names, 1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        served = f"; served are: {', '.join(sorted(names))}" if names else "; nothing is served yet"
        raise errors.UnknownPolicy(f"no worker has served the policy {policy!r}{hint}{served}")

    def _reset(self, message: RobotMessage, now: float) -> None:
        session = message.header.get("session", "")
        client = message.header["id"].client if "id" in message.header else message.sender
        waiting = self._waiting.sessions.get((client, session))
        if waiting is not None:
            self.fail(waiting, errors.Cancelled("the session was reset while this request waited"))
        self._reply(message, "pong", {})

    def _metadata(self, message: RobotMessage, now: float) -> None:
        try:
            policy = self._resolve(message.header.get("policy"), now)
            metadata = self._fleet.metadata.get(policy) if policy is not None else None
            if metadata is None:
                raise errors.NoWorker("no worker has said yet what it serves: start one")
        except errors.PolicyError as error:
            self._refuse(message.envelope, message.header, error)
        else:
            header = self._reply_header(message.header, "result")
            self._commands.append(ToRobot(message.envelope, header, metadata))

    def _ping(self, message: RobotMessage, now: float) -> None:
        policies = {
            name: dict(Counter(worker.state.value for worker in workers.values()))
            for name, workers in self._fleet.pool.by_policy.items()
        }
        info = {
            "version": __version__,
            "max_bytes": self.config.limits.max_bytes,
            "epoch": self._fleet.epoch,
            "policies": policies,
        }
        self._reply(message, "pong", info)

    def _status(self, message: RobotMessage, now: float) -> None:
        requests, pool = self._requests.values(), self._fleet.pool
        content = report(self.notebook, pool, self._waiting, requests, self.counters, now)
        self._reply(message, "pong", {"version": __version__, **content})

    def _reply(self, message: RobotMessage, kind: str, content: dict[str, Any]) -> None:
        payload = [bytes(frame) for frame in encode_body(content, buffers=False)]
        header = self._reply_header(message.header, kind)
        self._commands.append(ToRobot(message.envelope, header, payload))

    def _reply_header(self, request: Header, kind: str) -> Header:
        header = {"v": VERSION, "kind": kind}
        if "id" in request:
            header["id"] = request["id"]
        return header

    def _refuse(self, envelope: Payload, request: Header, error: errors.PolicyError) -> None:
        self.counters[f"error {error.code()}"] += 1
        header = self._reply_header(request, "error")
        header.update(errors.to_wire(error))
        self._commands.append(ToRobot(envelope, header))

    # The end of a request.

    def _settle(self, request: Request, cause: str) -> None:
        request.move(cause)
        self.counters[request.state.value] += 1
        self._waiting.remove(request)
        self._deadlines.discard(request)
        del self._requests[request.id]
        self._accounts.give_back(request.robot, request.size)
        request.payload = ()

    def _supersede(self, request: Request) -> None:
        self.fail(request, errors.Superseded("a newer observation took its place"), "supersede")

    def _check_deadlines(self, now: float) -> None:
        if now >= self._heard_at and self._is_nameless_due():
            self.learned(now)
        if now >= self._learned_at:
            self._refuse_unknown(now)
        while (deadline := self._deadlines.first_key()) is not None and deadline <= now:
            request = self._deadlines.pop()
            self.fail(request, self._why_late(request), "expire")

    def _next_change(self) -> float:
        moment = self._fleet.wake_at()
        deadline = self._deadlines.first_key()
        if deadline is not None and deadline < moment:
            moment = deadline
        if self._heard_at < moment and self._is_nameless_due():
            moment = self._heard_at
        if self._learned_at < moment and self._waiting.queues and self._unheard_of():
            moment = self._learned_at
        return moment

    def _is_nameless_due(self) -> bool:
        return self._waiting.waiting_for(None) > 0 and bool(self._fleet.pool.by_policy)

    def _unheard_of(self) -> list[str]:
        """Names that requests wait for and no worker has served yet."""
        names = self._fleet.pool.by_policy
        return [name for name in self._waiting.queues if name is not None and name not in names]

    def _refuse_unknown(self, now: float) -> None:
        for policy in self._unheard_of():
            for request in list(self._waiting.all_for(policy)):
                try:
                    self._resolve(policy, now)
                except errors.PolicyError as error:
                    self.fail(request, error)

    def _why_late(self, request: Request) -> errors.PolicyError:
        if request.state is RequestState.LEASED:
            return errors.DeadlineExceeded(
                f"a worker had it for {(request.deadline - request.leased_at) * 1e3:.0f} ms and "
                "had not answered: allow more time, or look at that worker"
            )
        if request.policy is None and self._fleet.pool.by_policy:
            return errors.WorkerLoading("this broker has just started: try again, or name a policy")
        states = {worker.state for worker in self._fleet.pool.serving(request.policy)}
        if WorkerState.READY in states:
            return errors.DeadlineExceeded(
                "all workers were busy until its deadline: start more, or allow more time"
            )
        name = request.policy or "any policy"
        if WorkerState.WARMING in states:
            return errors.WorkerLoading(f"the workers of {name} are still loading: try again")
        return errors.NoWorker(f"no live worker serves {name}: start one, or look at its log")

    def _stop(self, now: float) -> None:
        is_last_call, self._stopping = self._stopping, True
        for request in list(self._requests.values()):
            if is_last_call or not request.holders:
                self.fail(request, _draining())
        if not is_last_call:
            self.log(logging.INFO, f"stopping: {self.in_hand} requests are still with workers")


def _draining() -> errors.Draining:
    error = errors.Draining("this broker is stopping: ask another one, or this one when it is back")
    error.retry_after_s = _RETRY_MS / 1e3
    return error
