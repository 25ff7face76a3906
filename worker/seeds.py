"""The seed of a request that brings neither a seed nor noise."""

from __future__ import annotations

import hashlib

from client.wire import RequestId


def seed_of(id: RequestId) -> int:
    """Derived from the request's id, so every attempt at it has the same, and so has a replay."""
    digest = hashlib.blake2b(id.client + id.sequence.to_bytes(8, "big"), digest_size=7)
    return int.from_bytes(digest.digest(), "big")
