"""Turns a fuzzer's bytes into decisions, so that similar bytes give similar messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Reads bytes from the front; beyond the end there are only zeros."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def exhausted(self) -> bool:
        """Has everything been read?"""
        return self._at >= len(self._data)

    def byte(self) -> int:
        """0 to 255."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def below(self, bound: int) -> int:
        """0 to `bound - 1`, for bounds up to 256."""
        return self.byte() % bound

    def pick(self, options: Sequence[T]) -> T:
        """One of up to 256 options."""
        return options[self.below(len(options))]

    def some(self, most: int) -> bytes:
        """Up to `most` (at most 65535) bytes: a length in two bytes, then as many as there are."""
        length = min(self.byte() << 8 | self.byte(), most)
        start = min(self._at, len(self._data))
        self._at = start + length
        return self._data[start : self._at]

    def rest(self) -> bytes:
        """All that is left."""
        start, self._at = min(self._at, len(self._data)), len(self._data)
        return self._data[start:]
