"""Which policy a request means, and when a broker that has just started can know that."""

from __future__ import annotations

import difflib

from broker.inflight import InFlight
from broker.requests import Request
from broker.versions import Key, Versions
from broker.workers import Pool
from client import errors
from client.names import base_of
from client.wire import Header

GRACE_S = 2.0  # after a start, workers take up to this long to connect and say what they serve
# Nearly all have done so by then (client.peer.RECONNECT_MAX_MS). A robot that names no
# policy has to wait for it, or a restart might send it to another policy than before.
NAMELESS_GRACE_S = 0.5


class Names:
    """Resolves the names in requests, at once or as soon as workers had time to say hello."""

    def __init__(self, pool: Pool, inflight: InFlight, versions: Versions, now: float) -> None:
        """`now` is when the broker started."""
        self._pool = pool
        self._inflight = inflight
        self._versions = versions
        self._known_at = now + GRACE_S
        self._nameless_known_at = now + NAMELESS_GRACE_S
        self.wake_at = self._nameless_known_at  # when `check` has to be called

    def meant(self, header: Header, key: Key, now: float) -> tuple[str | None, str]:
        """The full name that answers a request of the episode `key`.

        Returns:
            What `resolve` returns, or the version of it that the episode has; and in that case the
            base name, else nothing.

        Raises:
            AmbiguousPolicy: none is given, and several are served.
            UnknownPolicy: no worker has served one of this name.
        """
        policy = self.resolve(header.get("policy"), now)
        if policy is None or not (policy in self._versions.records or now < self._known_at):
            return policy, ""
        full = self._version(policy, header.get("version"), key, now)
        return full, policy if full != policy or policy in self._versions.records else ""

    def resolve(self, policy: str | None, now: float) -> str | None:
        """The served policy that a name means, or the base name of several versions.

        Returns:
            The name of the policy; None where the request names none and it cannot be decided
            yet which one it means. A name that is unknown is returned as it is as long as a
            worker that serves it may still come.

        Raises:
            AmbiguousPolicy: none is given, and several are served.
            UnknownPolicy: no worker has served one of this name.
        """
        names = self._pool.by_policy
        if policy in names or policy in self._versions.records or (policy is None and not names):
            return policy
        if now < (self._nameless_known_at if policy is None else self._known_at):
            return policy
        if policy is None:
            if len(names) == 1:
                return base_of(next(iter(names)))
            one, *others = dict.fromkeys(map(base_of, self._pool.names(now)))
            if not others:
                return one
            served = ", ".join(sorted([one, *others]))
            raise errors.AmbiguousPolicy(f"name a policy: {served} are served")
        close = difflib.get_close_matches(policy, {*names, *map(base_of, names)}, 1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        served = f"; served are: {', '.join(sorted(names))}" if names else "; nothing is served yet"
        raise errors.UnknownPolicy(f"no worker has served the policy {policy!r}{hint}{served}")

    def likely(self, policy: str, header: Header, key: Key) -> str:
        """The full name that would answer this episode now, for what is asked about it."""
        if policy not in self._versions.records:
            return policy
        return self._versions.peek(policy, key, header.get("version"), self._pool.serves_since)

    def resolve_waiting(self, now: float) -> None:
        """Decide for the requests that name no policy which one they mean, if that is known."""
        if now < self._nameless_known_at:
            return
        waiting = self._inflight.waiting
        for request in list(waiting.all_for(None)):
            try:
                waiting.remove(request)
                request.policy, request.base = self.meant(request.header, request.session, now)
                waiting.add(request)
            except errors.PolicyError as error:
                self._inflight.fail(request, error)

    def choose_again(self, request: Request, now: float) -> None:
        """Decide anew which version answers a request that does not wait, if it has a choice."""
        base = request.base or request.policy
        if base in self._versions.records or request.base:
            told = request.header.get("version")
            request.policy = self._version(str(base), told, request.session, now)
            request.base = str(base)

    def answered(self, request: Request, full: str, now: float) -> None:
        """A version has answered; to be called unless it was asked for by its full name.

        An episode that began before there were versions is remembered to have this one.
        """
        base = request.policy
        if request.base or base is None:
            return
        if base in self._versions.records:
            if base_of(full) == base:
                self._versions.choose(base, request.session, full, self._pool.serves_since, now)
        elif "version" not in request.header and base_of(full) == base:
            self._versions.answered(base, request.session, now)

    def settle(self, policy: str | None, now: float) -> None:
        """Have requests that wait in vain for a version go on with another one of its name.

        Of those whose version is there, the episode is remembered to have it. To be called when one
        of both may have become possible: workers of `policy`, or of another version of it, have
        come, are ready or leave, or there is another plan.
        """
        waiting, serves = self._inflight.waiting, self._pool.serves_since
        base = base_of(policy or "")
        record = self._versions.records.get(base)
        if record is None or not any(serves(full) is not None for full in record.names):
            return
        for full in list(waiting.queues):
            if full is None or base_of(full) != base:
                continue
            is_to_be_had = serves(full) is not None and record.plan.allows(full)
            for request in list(waiting.all_for(full)):
                if is_to_be_had:
                    if request.base:  # it may have waited for a version that nobody had seen yet
                        self._versions.choose(base, request.session, full, serves, now)
                elif request.base or full == base:
                    waiting.remove(request)
                    self.choose_again(request, now)
                    waiting.add(request)

    def check(self, now: float) -> None:
        """Decide for the requests that had to wait until `wake_at`."""
        if now < self.wake_at:
            return
        self.resolve_waiting(now)
        if now < self._known_at:
            self.wake_at = self._known_at
        else:
            self.wake_at = float("inf")
            for policy in list(self._inflight.waiting.queues):
                self.settle(policy, now)
            self._refuse_unknown(now)

    def _version(self, base: str, told: str | None, key: Key, now: float) -> str:
        """The version for a request; one of which no worker was seen yet may still come."""
        may_come = now < self._known_at and told not in self._pool.by_policy
        if told is not None and may_come and base_of(told) == base:
            return told
        if base not in self._versions.records:
            return base
        return self._versions.choose(base, key, told, self._pool.serves_since, now)

    def _refuse_unknown(self, now: float) -> None:
        """Fail what waits for names that no worker has served."""
        waiting, names = self._inflight.waiting, self._pool.by_policy
        unknown = [name for name in waiting.queues if name is not None and name not in names]
        for policy in unknown:
            for request in list(waiting.all_for(policy)):
                try:
                    if request.base:  # its version has not come back
                        waiting.remove(request)
                        request.policy, request.base = request.base, ""
                        self.choose_again(request, now)
                        waiting.add(request)
                    self.resolve(request.policy, now)
                except errors.PolicyError as error:
                    self._inflight.fail(request, error)
