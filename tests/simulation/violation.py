"""What the simulation says when something that must never happen happened."""

from __future__ import annotations


class Violation(AssertionError):
    """An invariant of `docs/protocol.md` does not hold; `number` says which, 1 to 7.

    1. every accepted request gets exactly one final answer, at most 100 ms after its deadline;
    2. a reply reaches only the robot that asked, for the id it asked;
    3. no worker ever holds more than its slots;
    4. what the core holds stays within its bounds, and nothing is left at the end;
    5. after faults stop, throughput returns to what the live workers allow;
    6. no team's lane waits until another's has had all that it asks for;
    7. an episode is answered by one version as long as that version can be had.

    An exception out of the core counts as 1: nobody would be answered any more.
    """

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"invariant {number}: {what}")
        self.number = number
