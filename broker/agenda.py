"""A heap whose members can be taken out before their turn."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Any, Generic, TypeVar

Item = TypeVar("Item", bound=Hashable)

_SLACK = 64


class Agenda(Generic[Item]):
    """Items in the order of their keys; equal keys in the order of their arrival.

    Discarding is lazy, and the heap is rebuilt when more than half of it has been discarded:
    every operation costs O(log n) amortised, and memory stays within twice what is live.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Any, int, Item]] = []
        self._turns: dict[Item, int] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._turns)

    def __contains__(self, item: Item) -> bool:
        return item in self._turns

    def __iter__(self) -> Iterator[Item]:
        """The live items in no particular order."""
        return iter(list(self._turns))

    def add(self, key: Any, item: Item) -> None:
        """Put an item in, or move it to another key."""
        turn = self._arrivals = self._arrivals + 1
        heap, turns = self._heap, self._turns
        turns[item] = turn
        heapq.heappush(heap, (key, turn, item))
        if len(heap) > 2 * len(turns) + _SLACK:
            self._shrink()

    def discard(self, item: Item) -> None:
        """Take an item out, if it is in."""
        turns = self._turns
        if turns.pop(item, None) and len(self._heap) > 2 * len(turns) + _SLACK:
            self._shrink()

    def first_key(self) -> Any:
        """The earliest key; None if the agenda is empty."""
        heap, turns = self._heap, self._turns
        while heap:
            key, turn, item = heap[0]
            if turns.get(item) == turn:
                return key
            heapq.heappop(heap)
        return None

    def count_until(self, key: Any) -> int:
        """How many items have this key or an earlier one; it looks at every item."""
        turns = self._turns
        return sum(1 for at, turn, item in self._heap if at <= key and turns.get(item) == turn)

    def pop(self) -> Item:
        """Take out the item with the earliest key.

        Raises:
            IndexError: the agenda is empty.
        """
        if self.first_key() is None:
            raise IndexError("the agenda is empty")
        item = heapq.heappop(self._heap)[2]
        del self._turns[item]
        return item

    def _shrink(self) -> None:
        self._heap = [entry for entry in self._heap if self._turns.get(entry[2]) == entry[1]]
        heapq.heapify(self._heap)
