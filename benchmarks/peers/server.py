"""`python -m benchmarks.peers.server MODULE ROLE HOST PORT [BACKEND]`: serves until killed."""

from __future__ import annotations

import importlib
import sys

if __name__ == "__main__":
    _module, _role, _host, *_ports = sys.argv[1:]
    getattr(importlib.import_module(f"benchmarks.peers.{_module}"), _role)(
        _host, *(int(port) for port in _ports)
    )
