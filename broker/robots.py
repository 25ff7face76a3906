"""Robots' messages: an `infer` is admitted and waits, everything else is answered at once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any

from broker.config import Limits
from broker.events import RobotMessage
from broker.inflight import RETRY_S, InFlight, draining
from broker.leases import Leases
from broker.names import Names
from broker.outbox import Outbox
from broker.requests import Request
from broker.shares import USUAL
from broker.status import demand, report
from broker.telemetry import Telemetry
from broker.versions import Key, Versions
from broker.workers import Pool
from client import errors
from client.body import encode_body
from client.version import __version__
from client.wire import LIVE, LONGEST_MS, MAX_CLIENT, RequestId

RETRY_METADATA_S = 0.25  # while workers may still come


class Robots:
    """Answers robots; `kinds` has the function for each kind of message."""

    def __init__(
        self,
        limits: Limits,
        pool: Pool,
        inflight: InFlight,
        leases: Leases,
        names: Names,
        versions: Versions,
        outbox: Outbox,
        telemetry: Telemetry,
    ) -> None:
        self.kinds: dict[str, Callable[[RobotMessage, float], None]] = {
            "infer": self._infer,
            "reset": self._reset,
            "metadata": self._metadata,
            "ping": self._ping,
            "status": self._status,
        }
        self._limits = limits
        self._pool = pool
        self._inflight = inflight
        self._leases = leases
        self._names = names
        self._versions = versions
        self._outbox = outbox
        self._telemetry = telemetry
        self._fairness = inflight.fairness
        self._anonymous = 0  # requests so far of clients that give no id

    def _infer(self, message: RobotMessage, now: float) -> None:
        header = message.header
        known = self._inflight.requests.get(header["id"]) if "id" in header else None
        if known is not None:
            self._join(known, message)
            return
        try:
            request = self._accept(message, now)
            self._leases.open(request, now)
        except errors.PolicyError as error:
            self._outbox.refuse(message.envelope, header, error)
            return
        self._telemetry.asked(request.id.client, request.policy, message, request.size, now)

    def _join(self, request: Request, message: RobotMessage) -> None:
        """Join a request that comes again to the one in hand, and answer the newer message."""
        self._telemetry.counters["joined"] += 1
        # The newer message has less time left; they may come in the wrong order.
        left_ms = message.header.get("deadline_ms", 0.0)
        if left_ms <= request.header.get("deadline_ms", 0.0):
            request.header["deadline_ms"] = left_ms
            request.envelope = message.envelope

    def _accept(self, message: RobotMessage, now: float) -> Request:
        header, limits = message.header, self._limits
        if not message.payload:
            raise errors.ProtocolError("the body is missing: send [header, body, buffers...]")
        size = sum(map(len, message.payload))
        if size > limits.max_bytes:
            raise errors.MessageTooLarge(
                f"the message has {size} bytes, {limits.max_bytes} are allowed (limits.max_bytes)"
            )
        if self._inflight.is_draining:
            raise draining()
        identity = header.get("id")
        if identity is None:
            self._anonymous += 1
            identity = RequestId(_client_of(message.sender), self._anonymous)
        session = identity.client, header.get("session", "")
        policy, base = self._names.meant(header, session, now)
        self._note_asked(policy, now)
        left_s = header.get("deadline_ms", limits.default_deadline_s * 1e3) / 1e3
        robot = message.peer or message.sender
        lane, member = USUAL, ""
        if self._fairness.is_on or "traffic" in header:
            member = message.peer or header.get("robot", "")
            lane = self._fairness.lane(member, header.get("traffic", LIVE))
        until = now + left_s
        request = Request(
            identity,
            message.envelope,
            header,
            message.payload,
            size,
            policy,
            now,
            until,
            robot,
            lane,
            base,
        )
        self._admit(request, left_s)
        if lane.team:
            older = self._inflight.waiting.sessions.get(request.session)
            is_replaced = older is not None and older.lane.team == lane.team
            self._fairness.admit(lane, member, 0 if is_replaced else 1, now)
        return request

    def _note_asked(self, policy: str | None, now: float) -> None:
        if policy in self._pool.by_policy:  # nobody can make us remember names without end
            self._telemetry.asked_at[policy] = now

    def _admit(self, request: Request, left_s: float) -> None:
        waiting = self._inflight.waiting
        requests, size, policy = 1, request.size, request.policy
        older = waiting.sessions.get(request.session)
        if older is not None and older.robot == request.robot:
            requests, size = 0, size - older.size  # it will replace that one
        reason = self._inflight.accounts.refusal(request.robot, requests, size)
        ahead = waiting.waiting_for(policy)
        wait_s = self._leases.wait_s(policy, ahead) if ahead else 0.0
        if left_s <= 0.0:
            raise errors.DeadlineExceeded("the deadline had passed when the request came")
        inference_s = self._leases.inference_s(policy) if wait_s else 0.0
        if not reason and wait_s + inference_s > left_s:
            # This counted all that wait, which is cheap; some may be served after this request.
            before = waiting.served_before(request)
            wait_s = self._leases.wait_s(policy, before)
            if wait_s + inference_s > left_s:
                reason = (
                    f"{before} requests are before it: its answer would come after its deadline"
                )
        if not reason:
            return
        error = errors.Overloaded(f"{reason}; try again later or start more workers")
        self._inflight.count_failure(request, error)
        error.retry_after_s = min(wait_s or RETRY_S, LONGEST_MS / 1e3)
        raise error

    def _reset(self, message: RobotMessage, now: float) -> None:
        episode = self._episode(message)
        self._versions.forget(episode)
        waiting = self._inflight.waiting.sessions.get(episode)
        if waiting is not None:
            error = errors.Cancelled("the session was reset while this request waited")
            self._inflight.fail(waiting, error)
        self._reply(message, {})

    def _metadata(self, message: RobotMessage, now: float) -> None:
        try:
            policy = self._names.resolve(message.header.get("policy"), now)
            if policy is not None:
                policy = self._names.likely(policy, message.header, self._episode(message))
            self._note_asked(policy, now)
            metadata = self._pool.metadata.get(policy) if policy is not None else None
            if metadata is None:
                error = errors.NoWorker(
                    f"no worker has said yet that it serves {policy or 'anything'}: start one, or "
                    "ask again if one is on its way"
                )
                error.retry_after_s = RETRY_METADATA_S
                raise error
        except errors.PolicyError as error:
            self._outbox.refuse(message.envelope, message.header, error)
        else:
            self._outbox.reply(message.envelope, message.header, "result", metadata)

    def _ping(self, message: RobotMessage, now: float) -> None:
        policies = {
            name: dict(Counter(worker.state.value for worker in workers.values()))
            for name, workers in self._pool.by_policy.items()
        }
        info = {
            "version": __version__,
            "max_bytes": self._limits.max_bytes,
            "epoch": self._outbox.epoch,
            "policies": policies,
        }
        self._reply(message, info)

    def _status(self, message: RobotMessage, now: float) -> None:
        content = report(self._telemetry, self._pool, self._inflight, self._outbox.errors, now)
        content["demand"] = demand(
            self._telemetry, self._pool, self._inflight, self._leases.wait_s, now
        )
        self._reply(message, {"version": __version__, **content})

    def _episode(self, message: RobotMessage) -> Key:
        header = message.header
        client = header["id"].client if "id" in header else _client_of(message.sender)
        return client, header.get("session", "")

    def _reply(self, message: RobotMessage, content: dict[str, Any]) -> None:
        payload = [bytes(frame) for frame in encode_body(content, buffers=False)]
        self._outbox.reply(message.envelope, message.header, "pong", payload)


def _client_of(routing_id: bytes) -> bytes:
    """What stands for a client that gives no `id`; peers may give themselves long routing ids."""
    if len(routing_id) <= MAX_CLIENT:
        return routing_id
    return hashlib.blake2b(routing_id, digest_size=MAX_CLIENT).digest()
