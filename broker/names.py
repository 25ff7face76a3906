"""Which policy a request means, and when a broker that has just started can know that."""

from __future__ import annotations

import difflib

from broker.inflight import InFlight
from broker.workers import Pool
from client import errors

GRACE_S = 2.0  # after a start, workers take up to this long to connect and say what they serve
# Nearly all have done so by then (client.connection.RECONNECT_MAX_MS). A robot that names no
# policy has to wait for it, or a restart might send it to another policy than before.
NAMELESS_GRACE_S = 0.5


class Names:
    """Resolves the names in requests, at once or as soon as workers had time to say hello."""

    def __init__(self, pool: Pool, inflight: InFlight, now: float) -> None:
        """`now` is when the broker started."""
        self._pool = pool
        self._inflight = inflight
        self._known_at = now + GRACE_S
        self._nameless_known_at = now + NAMELESS_GRACE_S
        self.wake_at = self._nameless_known_at  # when `check` has to be called

    def resolve(self, policy: str | None, now: float) -> str | None:
        """The served policy that a request means.

        Returns:
            The name of the policy; None where the request names none and it cannot be decided
            yet which one it means. A name that is unknown is returned as it is as long as a
            worker that serves it may still come.

        Raises:
            AmbiguousPolicy: none is given, and several are served.
            UnknownPolicy: no worker has served one of this name.
        """
        names = self._pool.by_policy
        if policy in names or (policy is None and not names):
            return policy
        if now < (self._nameless_known_at if policy is None else self._known_at):
            return policy
        if policy is None:
            one, *others = self._pool.names(now)
            if not others:
                return one
            served = ", ".join(sorted([one, *others]))
            raise errors.AmbiguousPolicy(f"name a policy: {served} are served")
        close = difflib.get_close_matches(policy, names, 1)
        hint = f": did you mean {close[0]!r}?" if close else ""
        served = f"; served are: {', '.join(sorted(names))}" if names else "; nothing is served yet"
        raise errors.UnknownPolicy(f"no worker has served the policy {policy!r}{hint}{served}")

    def resolve_waiting(self, now: float) -> None:
        """Decide for the requests that name no policy which one they mean, if that is known."""
        if now < self._nameless_known_at:
            return
        waiting = self._inflight.waiting
        for request in list(waiting.all_for(None)):
            try:
                waiting.remove(request)
                request.policy = self.resolve(None, now)
                waiting.add(request)
            except errors.PolicyError as error:
                self._inflight.fail(request, error)

    def check(self, now: float) -> None:
        """Decide for the requests that had to wait until `wake_at`."""
        if now < self.wake_at:
            return
        self.resolve_waiting(now)
        if now < self._known_at:
            self.wake_at = self._known_at
        else:
            self.wake_at = float("inf")
            self._refuse_unknown(now)

    def _refuse_unknown(self, now: float) -> None:
        """Fail what waits for names that no worker has served."""
        waiting, names = self._inflight.waiting, self._pool.by_policy
        unknown = [name for name in waiting.queues if name is not None and name not in names]
        for policy in unknown:
            for request in list(waiting.all_for(policy)):
                try:
                    self.resolve(policy, now)
                except errors.PolicyError as error:
                    self._inflight.fail(request, error)
