"""The brokers: what they say about both versions, and the plan that each of them is sent."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from client import ZmqPolicyClient
from client.errors import PolicyError
from client.rollout import get_rollout, set_rollout
from scripts.rollout.actions import Plan
from scripts.rollout.facts import Figures
from scripts.rollout.tally import Tally

TIMEOUT_S = 3.0
_CONNECT_S = 5.0
SETTLED_S = 5.0
_EMPTY: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Look:
    """What one broker says at one moment."""

    stable: Figures
    candidate: Figures
    moved: int
    uptime_s: float


class Broker:
    """One broker, which is sent the plan again when it has restarted.

    Attributes:
        trouble: why it does not answer; empty if it does.
        restarts: how often it was sent the plan again because it had restarted.
    """

    def __init__(self, address: str, policy: str, key: str | None) -> None:
        """Nothing is connected yet."""
        self.address, self.trouble, self.restarts = address, "", 0
        self._policy, self._key = policy, key
        self._client: ZmqPolicyClient | None = None
        self._tally = Tally()
        self._plan: Plan | None = None
        self._sent: tuple[int, Plan] | None = None

    def ping(self) -> dict[str, Any]:
        """What it says about itself.

        Raises:
            client.errors.PolicyError: it does not answer, or does not accept the key.
            ValueError: the key file is not valid.
        """
        return self._connected().ping()

    def read(self) -> dict[str, Any]:
        """Its plan for the policy, and its counts.

        Raises:
            client.errors.PolicyError: it does not answer, or the key is no operator's.
        """
        return get_rollout(self._connected(), self._policy)

    def set(self, plan: Plan) -> None:
        """Send it the plan with the next `look`, or as soon as it answers."""
        self._plan = plan

    def look(self, stable: str, candidate: str) -> Look | None:
        """Send the plan if it is new, and ask; None if it does not answer or has just restarted.

        Raises:
            ValueError: the key file is not valid.
        """
        try:
            epoch = int(self._tell()["epoch"])
            plan, status, after = self.read(), self._connected().status(), self.ping()
        except PolicyError as error:
            self.trouble = f"{type(error).__name__}: {error}"
            return None
        self.trouble = ""
        if after["epoch"] != epoch:
            return None
        counts = self._tally.take(epoch, _counts(plan, (stable, candidate)))
        figures = [
            _figures(name, counts, plan, status, after["policies"].get(name, {}))
            for name in (stable, candidate)
        ]
        return Look(figures[0], figures[1], counts["moved"], float(status["uptime_s"]))

    def _tell(self) -> dict[str, Any]:
        """Send the plan if the broker does not have it since its start; returns a pong."""
        pong = self.ping()
        plan = None if self._plan is None else known(self._plan, pong["policies"])
        if plan is not None and self._sent != (pong["epoch"], plan):
            set_rollout(
                self._connected(),
                self._policy,
                stable=plan.stable,
                candidate=plan.candidate,
                share=plan.share,
                retire=plan.retire,
                move=plan.move,
            )
            self.restarts += self._sent is not None and self._sent[0] != pong["epoch"]
            self._sent = pong["epoch"], plan
        return pong

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()

    def _connected(self) -> ZmqPolicyClient:
        if self._client is None:
            self._client = ZmqPolicyClient(
                [self.address],
                policy=self._policy,  # an operator's key may be for some policies only
                robot="rollout",
                timeout_s=TIMEOUT_S,
                connect_timeout_s=_CONNECT_S,
                key=self._key,
            )
        return self._client


@dataclass(frozen=True)
class Together:
    """What all brokers say together.

    `is_settled` says that none has just restarted or fallen silent. Otherwise robots may still be
    on their way back, and their episodes are not counted as running.
    """

    stable: Figures
    candidate: Figures
    moved: int
    is_settled: bool


class Brokers:
    """All brokers. Each of them knows every worker, and each robot asks one of them."""

    def __init__(self, addresses: Sequence[str], policy: str, key: str | None) -> None:
        """Nothing is connected yet."""
        self.all = [Broker(address, policy, key) for address in addresses]
        self._last: dict[str, tuple[float, Look]] = {}  # by address, with its moment

    def set(self, plan: Plan) -> None:
        """Send every broker the plan; one that does not answer gets it as soon as it does."""
        for broker in self.all:
            broker.set(plan)

    def look(self, stable: str, candidate: str) -> Together | None:
        """Send the plan where it is new, and ask; None if no broker answers."""
        answers, silent_s = [], [SETTLED_S]
        for broker in self.all:
            look = broker.look(stable, candidate)
            if look is not None:
                self._last[broker.address] = time.monotonic(), look
                answers.append(look)
            elif broker.address in self._last:
                silent_s.append(time.monotonic() - self._last[broker.address][0])
        if not answers:
            return None
        every = [look for _, look in self._last.values()]
        youngest_s = min(look.uptime_s for look in answers)
        return Together(
            summed([look.stable for look in every], [look.stable for look in answers]),
            summed([look.candidate for look in every], [look.candidate for look in answers]),
            sum(look.moved for look in every),
            min(youngest_s, *silent_s) >= SETTLED_S,
        )

    def troubles(self) -> dict[str, str]:
        """Why each broker does not answer, by address; those that answer are left out."""
        return {broker.address: broker.trouble for broker in self.all if broker.trouble}

    def restarts(self) -> dict[str, int]:
        """How often each was sent the plan again because it had restarted."""
        return {broker.address: broker.restarts for broker in self.all}

    def close(self) -> None:
        """Close the connections."""
        for broker in self.all:
            broker.close()


def known(plan: Plan, names: Collection[str]) -> Plan | None:
    """The part of a plan that a broker can be sent which knows only these versions.

    A broker that has just restarted hears of their workers within half a second. The result is None
    while it does not even know the stable version.
    """
    if plan.stable not in names:
        return None
    retire = tuple(name for name in plan.retire if name in names)
    if plan.candidate is None or plan.candidate in names:
        return replace(plan, retire=retire)
    return Plan(plan.stable, retire=retire)


def summed(every: Sequence[Figures], answers: Sequence[Figures]) -> Figures:
    """One version's figures: counts of all brokers, and the rest of those that answer now."""
    failed: Counter[str] = Counter()
    for each in every:
        failed.update(each.failed)
    return Figures(
        ready=max(each.ready for each in answers),
        workers=max(each.workers for each in answers),
        episodes=sum(each.episodes for each in every),
        running=sum(each.running for each in answers),
        answered=sum(each.answered for each in every),
        failed=dict(failed),
        timed=sum(each.timed for each in answers),
        p95_ms=max(each.p95_ms for each in answers),
    )


def _counts(plan: Mapping[str, Any], names: Sequence[str]) -> dict[str, int]:
    """What a broker has counted since it started, as a flat map."""
    counts = {"moved": int(plan.get("moved", 0))}
    for name in names:
        requests = plan.get("requests", _EMPTY).get(name, _EMPTY)
        counts[f"{name} episodes"] = int(plan.get("episodes", _EMPTY).get(name, 0))
        counts[f"{name} answered"] = int(requests.get("answered", 0))
        for code, count in requests.get("failed", _EMPTY).items():
            counts[f"{name} failed {code}"] = int(count)
    return counts


def _figures(
    name: str,
    counts: Mapping[str, int],
    plan: Mapping[str, Any],
    status: Mapping[str, Any],
    workers: Mapping[str, int],
) -> Figures:
    start = f"{name} failed "
    latency = status["policies"].get(name, _EMPTY).get("latency_ms", _EMPTY)
    return Figures(
        ready=int(workers.get("ready", 0)),
        workers=sum(workers.values()),
        episodes=counts.get(f"{name} episodes", 0),
        running=int(plan.get("running", _EMPTY).get(name, 0)),
        answered=counts.get(f"{name} answered", 0),
        failed={
            key.removeprefix(start): count
            for key, count in counts.items()
            if key.startswith(start) and count
        },
        timed=int(latency.get("count", 0)),
        p95_ms=float(latency.get("p95", 0.0)),
    )
