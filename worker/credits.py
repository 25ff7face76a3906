"""How many requests each of several brokers may have in hand at this worker.

The sum is never more than its slots.

A worker hands out its slots as credits: it tells each broker how many requests that one may have in
hand. What one broker may have, no other gets, until there is proof that it is back:

- the broker has acknowledged that it may have less, and answers have left for all that it had sent
  before (a connection keeps its order, so all of that has come before the acknowledgement);
- or its registration has ended: the connection is closed for good and its routing id with it, so
  nothing that the broker may still send can arrive. What came before is still in hand.

Credits move to where requests wait. They stay where they were last needed, and with one broker
there are none of them: it is told all slots once.
"""

from __future__ import annotations

from dataclasses import dataclass

RECALL_S = 0.5
"""A broker that does not acknowledge for so long that it may have less is registered with anew."""


@dataclass(slots=True)
class Share:
    """What one broker may have, and has."""

    granted: int = 0
    """Requests in hand, as it was told last."""
    number: int = 0
    """Of that telling; it grows."""
    held: int = 0
    """Requests in hand."""
    orphans: int = 0
    """Requests still in hand that it gave in registrations that have ended."""
    waiting: int = 0
    """Requests that wait there for a slot, as it said last."""
    is_open: bool = False
    """Is this worker ready there?"""
    is_used: bool = True
    """Has it given a request since it was told more?"""
    ceiling: int = 0
    """Until it has acknowledged that it may have less: what it may have had before."""
    recalled_at: float | None = None
    """When it was told so."""
    turn: int = 0
    """When it was last told more, in the order of such tellings."""

    @property
    def reserved(self) -> int:
        """How many of its requests there may be in hand, whatever is on its way."""
        return self.orphans + max(self.ceiling, self.granted, self.held)

    @property
    def lacks(self) -> int:
        """How many more it could use now."""
        if not self.is_open or not self.waiting or self.recalled_at is not None:
            return 0
        return self.held + self.waiting - self.granted

    def took(self) -> None:
        """It has given a request."""
        self.held += 1
        self.is_used = True

    def answered(self, is_orphan: bool) -> None:
        """A request of it is in hand no more."""
        if is_orphan:
            self.orphans -= 1
        else:
            self.held -= 1

    def acknowledged(self, number: int) -> None:
        """It has taken in the telling of this number, and all that it sent before has come."""
        if number >= self.number:
            self.ceiling, self.recalled_at = 0, None

    def end(self) -> None:
        """The registration is over: what is in hand stays so, and no more of it can come."""
        self.orphans += self.held
        self.held = self.granted = self.ceiling = self.waiting = 0
        self.is_open, self.is_used, self.recalled_at = False, True, None

    def change(self, by: int) -> None:
        """It is to be told that it may have more, or less."""
        self.granted += by
        self.number += 1


class Credits:
    """The slots of a worker, and the share of each broker in them."""

    def __init__(self, slots: int, brokers: int) -> None:
        """All slots are free."""
        self.shares = [Share() for _ in range(brokers)]
        self._slots = slots
        self._turns = 0

    @property
    def free(self) -> int:
        """Slots that no broker may use."""
        return self._slots - sum(share.reserved for share in self.shares)

    def settle(self, now: float) -> list[int]:
        """Hand out and take back; returns the brokers that have to be told."""
        before = [share.number for share in self.shares]
        self._hand_out()
        self._take_back(now)
        return [at for at, share in enumerate(self.shares) if share.number != before[at]]

    def overdue(self, now: float) -> list[int]:
        """The brokers that have not acknowledged for too long; their registrations are to end."""
        return [
            at
            for at, share in enumerate(self.shares)
            if share.recalled_at is not None and now >= share.recalled_at + RECALL_S
        ]

    def wake_at(self) -> float:
        """When the next of them will be."""
        recalls = [each.recalled_at for each in self.shares if each.recalled_at is not None]
        return min(recalls, default=float("inf")) + RECALL_S

    def _hand_out(self) -> None:
        free = self.free
        while free > 0 and (share := self._neediest()) is not None:
            self._turns += 1
            share.turn, share.is_used = self._turns, False
            share.change(1)
            free -= 1
        if free > 0 and not any(share.lacks > 0 for share in self.shares):
            # Nobody asks: the first of the list gets what is left, as robots ask it first.
            for share in self.shares:
                if share.is_open and share.recalled_at is None:
                    self._turns += 1
                    share.turn = self._turns
                    share.change(free)
                    break

    def _neediest(self) -> Share | None:
        """Of those that lack some: the one with the fewest, and of equals the longest without."""
        lacking = [share for share in self.shares if share.lacks > 0]
        return min(lacking, key=lambda share: (share.granted, share.turn), default=None)

    def _take_back(self, now: float) -> None:
        share = self._neediest()
        if share is None:
            return
        # What is on its way back, or will be free when answers have left, need not be asked for.
        wanted = share.lacks - (self._slots - sum(each.granted for each in self.shares))
        for giver in sorted(self.shares, key=lambda each: each.held - each.granted):
            if wanted > 0 and giver is not share and giver.recalled_at is None:
                wanted -= self._take(giver, share, wanted, now)

    def _take(self, giver: Share, share: Share, wanted: int, now: float) -> int:
        """Take slots from one share for another; returns how many."""
        spare = 0
        if giver.waiting <= 0:
            spare = min(wanted, giver.granted)
        elif giver.granted - share.granted > 1:
            spare = min(wanted, (giver.granted - share.granted) // 2)
        elif share.granted == 0 and giver.is_used:
            spare = min(1, giver.granted)  # they take turns
        if spare > 0:
            giver.ceiling, giver.recalled_at = giver.granted, now
            giver.change(-spare)
        return spare
