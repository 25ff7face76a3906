"""Rolling out a version: an operator's plan for new episodes, and versions that are retired.

A plan lasts as long as this process. Whoever makes it sends it to each of several brokers, and
again when the answer to a `ping` has another epoch.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from typing import Any

from broker.events import Payload, RobotMessage
from broker.inflight import InFlight
from broker.names import Names
from broker.outbox import Outbox
from broker.versions import Plan, Record, Versions
from broker.workers import Pool
from client import errors
from client.body import decode_body, encode_body
from client.names import base_of
from client.wire import MAX_NAME, show

MAX_BODY = 64_000  # bytes
_FIELDS = ("policy", "stable", "candidate", "share", "move", "retire")


class Rollouts:
    """Takes an operator's plans, and tells how they stand."""

    def __init__(
        self, pool: Pool, inflight: InFlight, names: Names, versions: Versions, outbox: Outbox
    ) -> None:
        self._pool = pool
        self._inflight = inflight
        self._names = names
        self._versions = versions
        self._outbox = outbox

    def receive(self, message: RobotMessage, now: float) -> None:
        """Use the plan in a message of the kind `rollout`, and answer how things stand."""
        try:
            content = self._apply(message, now)
        except errors.PolicyError as error:
            self._outbox.refuse(message.envelope, message.header, error)
        else:
            payload = [bytes(frame) for frame in encode_body(content, buffers=False)]
            self._outbox.reply(message.envelope, message.header, "pong", payload)

    def _apply(self, message: RobotMessage, now: float) -> dict[str, Any]:
        body = _body(message.payload)
        base = self._base(message.header.get("policy"), body.get("policy"))
        record = self._versions.record(base, self._pool.by_policy)
        plan = self._plan(body, record) if body.keys() & {"stable", "candidate", "share"} else None
        retired = self._retired(body.get("retire"), record)
        if plan is not None:
            self._use(base, plan, record, now)
        for full in retired:
            self._retire(full)
        if plan is not None or retired:
            self._names.settle(base, now)
        self._versions.forget_idle(now)
        return {"policy": base, **self._told(record)}

    def _base(self, named: str | None, given: object) -> str:
        """The base name that a message is about.

        Raises:
            ProtocolError: it names no policy, two different ones, or a version.
            UnknownPolicy: no worker has served it.
        """
        base = named if given is None else given
        if not isinstance(base, str) or base_of(base) != base or named not in (None, base):
            raise errors.ProtocolError(
                f"policy is {show(base)}: a name without a version is expected,"
                " such as 'aloha', the same in the header and the body"
            )
        bases = {base_of(full) for full in self._pool.by_policy}
        if base not in bases:
            raise errors.UnknownPolicy(
                f"no worker has served the policy {show(base)}{_hint(base, bases)}"
            )
        return base

    def _plan(self, body: dict[str, Any], record: Record) -> Plan:
        stable = _full_name("stable", body.get("stable"), record)
        candidate = _full_name("candidate", body.get("candidate"), record)
        share, moves = body.get("share", 0.0), body.get("move", False)
        if type(share) not in (int, float) or not 0.0 <= share <= 1.0:
            raise errors.ProtocolError(f"share is {show(share)}: a number from 0 to 1 is expected")
        if type(moves) is not bool:
            raise errors.ProtocolError(f"move is {show(moves)}: true or false is expected")
        if candidate is not None and candidate == stable:
            raise errors.ProtocolError(f"stable and candidate are both {candidate!r}")
        if stable is None and (candidate is not None or moves):
            raise errors.ProtocolError("stable is missing: name the version that serves now")
        return Plan(stable, candidate, float(share), moves)

    def _retired(self, given: object, record: Record) -> list[str]:
        """The versions that are to leave.

        Raises:
            ProtocolError: it is not a list of names, or no version would be left to answer.
            UnknownPolicy: one of them was never served.
        """
        if given is None:
            return []
        if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
            raise errors.ProtocolError(f"retire is {show(given)}: a list of names is expected")
        retired = [str(_full_name("retire", each, record)) for each in given]
        served = [full for full in record.names if self._pool.serves_since(full) is not None]
        if retired and served and set(served) <= set(retired):
            raise errors.ProtocolError(
                f"retire has {', '.join(served)}, and no other version can answer: start one first"
            )
        return retired

    def _use(self, base: str, plan: Plan, record: Record, now: float) -> None:
        if plan == record.plan:
            return  # it was sent again: go on counting the candidate's share
        record.use(plan)
        self._outbox.log(
            logging.INFO,
            f"rollout of {base}: {_sentence(plan)}",
            policy=base,
        )
        if plan.moves:
            moved = self._versions.move(base, self._pool.serves_since)
            text = f"rollout of {base}: {moved} running episodes were moved to another version"
            self._outbox.log(logging.INFO, text, policy=base)

    def _retire(self, full: str) -> None:
        for worker in self._pool.serving(full):
            worker.move("drain")
            worker.is_retired = True
            self._outbox.tell(worker.id, "retire")
            text = f"worker {worker.name} is told to leave: its version is retired"
            self._outbox.log(logging.INFO, text, **worker.about)

    def _told(self, record: Record) -> dict[str, Any]:
        plan, inflight = record.plan, self._inflight
        requests = {}
        for full in record.names:
            failed = {code: n for (name, code), n in inflight.failures.items() if name == full}
            answered = inflight.outcomes.get((full, "answered"), 0)
            requests[full] = {"answered": answered, "failed": failed}
        return {
            "stable": plan.stable,
            "candidate": plan.candidate,
            "share": plan.share,
            "move": plan.moves,
            "episodes": dict(record.begun),
            "moved": record.moved,
            "running": {full: count for full, count in record.running.items() if count},
            "requests": requests,
        }


def _sentence(plan: Plan) -> str:
    """What a plan does with new episodes, for the log."""
    if plan.stable is None:
        return "there is no plan any more"
    text = f"new episodes go to {plan.stable}"
    if plan.candidate is not None and plan.share:
        text += f", {plan.share:.1%} of them to {plan.candidate}"
    return f"{text}; running episodes of other versions are moved" if plan.moves else text


def _body(payload: Payload) -> dict[str, Any]:
    """The body of a message, checked for size and keys; empty where there is none.

    Raises:
        ProtocolError: it is too large, is not a body, or has unknown keys.
    """
    if not payload:
        return {}
    if len(payload) > 1 or len(payload[0]) > MAX_BODY:
        raise errors.ProtocolError(f"a plan is one body of at most {MAX_BODY} bytes")
    body = decode_body(payload)
    for key in body:
        if key not in _FIELDS:
            raise errors.ProtocolError(
                f"{show(key)} is not one of {', '.join(_FIELDS)}{_hint(str(key), _FIELDS)}"
            )
    return body


def _full_name(field: str, given: object, record: Record) -> str | None:
    if given is None:
        return None
    if not isinstance(given, str) or len(given) > MAX_NAME:
        raise errors.ProtocolError(f"{field} is {show(given)}: a full name is expected, or null")
    if given not in record.names:
        known = sorted(record.names)
        raise errors.UnknownPolicy(
            f"{field}: no worker has served {given!r}{_hint(given, known)}; known are"
            f" {', '.join(known)}"
        )
    return given


def _hint(given: str, known: Sequence[str] | set[str]) -> str:
    close = difflib.get_close_matches(given, known, 1)
    return f": did you mean {close[0]!r}?" if close else ""
