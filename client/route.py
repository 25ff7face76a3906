"""Which of a robot's brokers is asked: the first while it is there, and the next where it is not.

It is as pure as the session whose part it is: time is given, and so is the source of chance.

A call that finds its broker lost, silent or draining goes to the next of the list at once, and only
after all were tried in vain is there a pause. A client that has left the first broker stays where
it is. Once the first was seen to be connected again it goes back, but not at once: each client
draws its own moment, so that a broker that has just come back does not get all robots together.
"""

from __future__ import annotations

from random import Random
from typing import Any

from client.names import base_of

TRY_S = 0.25  # for a connection, and for the first word on it, where there are others to ask
LONGEST_TRY_S = 2.0  # it doubles with each round: a slow link's handshake takes its time
RETURN_S = 5.0  # within so long after it was seen again the first broker is asked again
LONGEST_RETURN_S = 60.0  # it doubles with each return that failed
_SOONEST = 0.1  # the first clients return after this share of it


class Route:
    """The place in the list of brokers; `at` is the index of the one to ask now."""

    def __init__(self, count: int = 1, random: Random | None = None) -> None:
        """`count`: of brokers. `random`: by which the clients of one broker differ."""
        self.at = 0
        self.is_several = count > 1
        self._count = count
        self._random = random or Random(0)
        self._tried = 0  # in vain, in this call
        self._return_at: float | None = None
        self._returns = 0  # that failed in a row
        self._is_doubted = False  # did the broker in use leave the last call without an answer?

    @property
    def has_untried(self) -> bool:
        """Is there one after this that was not tried in this round of the call?"""
        return self._tried % self._count < self._count - 1

    def begin(self, now: float) -> bool:
        """A call begins; True where the broker is to prove first that it is there and serves.

        That is so where the client goes back to the first one, and after a call that the broker in
        use never answered, not even in time for its deadline, as brokers do.
        """
        self._tried = 0
        is_doubted, self._is_doubted = self._is_doubted, False
        if self.at == 0 or self._return_at is None or now < self._return_at:
            return is_doubted
        self.at, self._return_at = 0, None
        self._returns += 1
        return True

    def advance(self) -> bool:
        """Go on to the next broker; False where all of them were tried in vain by now."""
        if not self.is_several:
            return False
        is_fresh = self.has_untried
        self._tried += 1
        self.at = (self.at + 1) % self._count
        return is_fresh

    def doubt(self) -> None:
        """The broker in use has left a call without an answer."""
        self._is_doubted = self.is_several

    def answered(self) -> None:
        """The broker in use has answered a call."""
        if self.at == 0:
            self._returns = 0

    def try_until(self, until: float, now: float) -> float:
        """Until when to wait for a connection or for a first word, at most until `until`."""
        if not self.is_several:
            return until
        longer = 1 << min(self._tried // self._count, 10)
        return min(until, now + min(TRY_S * longer, LONGEST_TRY_S))

    def sees_first(self, is_connected: bool, now: float) -> None:
        """Whether the first broker could be asked, while another one is in use."""
        if not is_connected:
            self._return_at = None
        elif self._return_at is None:
            spread_s = min(RETURN_S * (1 << min(self._returns, 10)), LONGEST_RETURN_S)
            self._return_at = now + spread_s * self._random.uniform(_SOONEST, 1.0)


def serves(info: dict[str, Any], policy: str | None) -> bool:
    """Whether a broker says in its `pong` that a worker is ready: of `policy`, or of any."""
    policies = info.get("policies")
    if not isinstance(policies, dict):
        return True  # it does not say
    return any(
        isinstance(each, dict) and each.get("ready")
        for name, each in policies.items()
        if policy in (None, name, base_of(name))
    )
