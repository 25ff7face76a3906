"""Ours, with robot and worker on one host: large arrays stay in memory that both can read."""

from benchmarks.peers.ours import SURVIVES_ERRORS, connecting, split

__all__ = ["SURVIVES_ERRORS", "connect", "split"]

connect = connecting()
