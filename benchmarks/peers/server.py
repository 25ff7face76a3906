"""`python -m benchmarks.peers.server MODULE HOST PORT`: answers robots until it is killed."""

from __future__ import annotations

import importlib
import sys

if __name__ == "__main__":
    importlib.import_module(f"benchmarks.peers.{sys.argv[1]}").serve(sys.argv[2], int(sys.argv[3]))
