"""Tests that need hosts of their own, made of network namespaces, and are skipped elsewhere."""

from __future__ import annotations

import os

import pytest

from benchmarks.lan import network
from benchmarks.lan.links import LinkError


def no_hosts() -> str:
    """Why none can be made here; empty where they can."""
    try:
        network.check(pinned=False)
        network.run(["ip", "netns", "add", f"lan-{os.getpid()}-trial"])
        network.run(["ip", "netns", "delete", f"lan-{os.getpid()}-trial"])
    except LinkError as error:
        return str(error)
    return ""


needs_hosts = pytest.mark.skipif(bool(no_hosts()), reason=no_hosts() or "-")
